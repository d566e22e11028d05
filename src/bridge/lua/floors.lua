-- Up to where every topic has been trimmed.
return { epoch, digits(floor), redis.call('HGETALL', FLOORS) }
