-- Where the log stands.
return { epoch, digits(seq), digits(now), digits(trimmed), digits(born) }
