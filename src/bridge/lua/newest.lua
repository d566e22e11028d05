-- The newest entries up to a number, newest first.
--
-- ARGV  2 the epoch it is asked of · 3 up to which number · 4 most entries · 5 most bytes
if ARGV[2] ~= epoch then
  return { epoch }
end
local entries, size, most_bytes = {}, 0, tonumber(ARGV[5])
for _, entry in ipairs(redis.call('XREVRANGE', LOG, ARGV[3] .. '-0', '-', 'COUNT', ARGV[4])) do
  size = size + #entry[2][2]
  if #entries > 0 and size > most_bytes then
    break
  end
  put_entry(entries, entry)
end
return { epoch, digits(now), entries }
