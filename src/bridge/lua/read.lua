-- Part of the past.
--
-- ARGV  2 the epoch it is asked of · 3, 4 after one number and up to another · 5 most events · 6 most bytes
--       7 number of topics, or -1 for all · topics · prefixes
-- Answers { epoch } where the epoch is another one, else { epoch, now, the floor of all topics, floors by
-- topic, up to where it was looked, entries }.
if ARGV[2] ~= epoch then
  return { epoch }
end
local after, up_to = tonumber(ARGV[3]), math.min(tonumber(ARGV[4]), seq)
local most, most_bytes, count = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local topics, prefixes = {}, {}
for index = 8, 7 + count do
  topics[ARGV[index]] = true
end
for index = 8 + math.max(count, 0), #ARGV do
  prefixes[#prefixes + 1] = ARGV[index]
end

local floors = {}
if #prefixes > 0 then
  floors = redis.call('HGETALL', FLOORS)
elseif count > 0 then
  for topic in pairs(topics) do
    local own = redis.call('HGET', FLOORS, topic)
    if own then
      floors[#floors + 1] = topic
      floors[#floors + 1] = own
    end
  end
end

local function is_selected(topic)
  if count < 0 or topics[topic] then
    return true
  end
  for _, prefix in ipairs(prefixes) do
    if string.sub(topic, 1, #prefix) == prefix then
      return true
    end
  end
  return false
end

local CHUNK = 200
local entries, found, size, scanned = {}, 0, 0, after
local function scan()
  while scanned < up_to do
    local chunk = redis.call('XRANGE', LOG, digits(scanned + 1) .. '-0', digits(up_to) .. '-0', 'COUNT', CHUNK)
    for _, entry in ipairs(chunk) do
      local fields = entry[2]
      if is_selected(fields[12]) then
        size = size + #fields[2]
        if found > 0 and size > most_bytes then
          return
        end
        put_entry(entries, entry)
        found = found + 1
      end
      scanned = tonumber(string.match(entry[1], '^%d+'))
      if found >= most then
        return
      end
    end
    if #chunk < CHUNK then
      scanned = up_to
    end
  end
end
if most > 0 then
  scan()
end
return { epoch, digits(now), digits(floor), floors, digits(scanned), entries }
