-- Removes the oldest entries beyond count, age and bytes, some at a time; what their topics lose is told by
-- the topics' floors from then on.
--
-- ARGV  2 fence · 3 most entries · 4 µs they are kept · 5 most bytes · 6 most floors · 7 entries at once
-- Answers { epoch, how many went, whether there may be more, when the oldest that is left is too old or 0 }.
--
-- A floor is `seq` where everything up to it is missed for ever, else steps `seq:until` of what is missed until
-- a time only, in µs: later and later entries, missed for less and less long.
if tonumber(ARGV[2]) < fence then
  return redis.error_reply('FENCED ' .. digits(fence))
end
local count, age, most_bytes = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local most_floors, batch = tonumber(ARGV[6]), tonumber(ARGV[7])
local MOST_STEPS, FOREVER = 16, 2 ^ 53
local kept, earliest = seq - trimmed, now - age

-- What no entry holds is kept as long, and no more of it.
local function forget_volatile()
  local old = redis.call('ZRANGEBYSCORE', VOLATILE, '-inf', digits(earliest), 'LIMIT', 0, batch)
  local over = math.min(redis.call('ZCARD', VOLATILE) - count, batch)
  if over > #old then
    old = redis.call('ZRANGE', VOLATILE, 0, over - 1)
  end
  for _, field in ipairs(old) do
    redis.call('ZREM', VOLATILE, field)
    -- a logged event may have a version there by now
    if string.match(redis.call('HGET', VERSIONS, field) or '', 'v$') then
      redis.call('HDEL', VERSIONS, field)
    end
  end
  local first = redis.call('ZRANGE', VOLATILE, 0, 0, 'WITHSCORES')
  return #old == batch, first[2] and tonumber(first[2]) + age
end
local more_volatile, volatile_due = forget_volatile()

-- Answers what was done, and when there is something to do next.
local function answer(gone, more)
  local left = redis.call('XRANGE', LOG, '-', '+', 'COUNT', 1)[1]
  local due = left and tonumber(left[2][6]) + age
  if volatile_due and (not due or volatile_due < due) then
    due = volatile_due
  end
  return { epoch, gone, (more or more_volatile) and 1 or 0, due and digits(due) or '0' }
end

local function oldest(limit)
  return redis.call('XRANGE', LOG, '-', '+', 'COUNT', limit)
end
local function is_over(entry)
  return kept > count or bytes > most_bytes or tonumber(entry[2][6]) < earliest
end
local first = oldest(1)[1]
if not first or not is_over(first) then
  return answer(0, false)
end

local raised = {}
local function steps_of(topic)
  if not raised[topic] then
    local steps = {}
    for number, till in string.gmatch(redis.call('HGET', FLOORS, topic) or '', '(%d+):?(%d*)') do
      steps[#steps + 1] = { tonumber(number), tonumber(till) or FOREVER }
    end
    raised[topic] = steps
  end
  return raised[topic]
end
local function raise(topic, number, till)
  local steps = steps_of(topic)
  while #steps > 0 and steps[#steps][2] <= till do
    steps[#steps] = nil
  end
  steps[#steps + 1] = { number, till }
  if #steps > MOST_STEPS then
    -- the first lasts longest, the second reaches further
    steps[2][2] = steps[1][2]
    table.remove(steps, 1)
  end
end

local gone, up_to = 0, trimmed
for _, entry in ipairs(oldest(batch)) do
  if not is_over(entry) then
    break
  end
  local fields, number = entry[2], tonumber(string.match(entry[1], '^%d+'))
  local topic, expires = fields[12], tonumber(fields[8]) or FOREVER
  kept = kept - 1
  bytes = bytes - #fields[2] - #fields[16] - 128
  gone, up_to = gone + 1, number
  if expires > now and not string.find(fields[2], '^{"event":"entity.created"') then
    raise(topic, number, expires)
  end
  if fields[14] ~= '' then
    local field = topic .. '\0' .. fields[14]
    local stored = redis.call('HGET', VERSIONS, field)
    if stored and tonumber(string.match(stored, ' (%d+)')) <= number then
      redis.call('HDEL', VERSIONS, field)
    end
  end
end
-- before anything that takes memory: where Redis has none left, only this lets it go on
redis.call('XTRIM', LOG, 'MINID', digits(up_to + 1) .. '-0')
for topic, steps in pairs(raised) do
  local texts = {}
  for index, step in ipairs(steps) do
    texts[index] = step[2] == FOREVER and digits(step[1]) or digits(step[1]) .. ':' .. digits(step[2])
  end
  redis.call('HSET', FLOORS, topic, table.concat(texts, ','))
end

if redis.call('HLEN', FLOORS) > most_floors then
  -- the lower half of the topics share one floor
  local all, tops, of = redis.call('HGETALL', FLOORS), {}, {}
  for index = 1, #all, 2 do
    local top = tonumber(string.match(all[index + 1], '(%d+):?%d*$'))
    tops[#tops + 1] = top
    of[all[index]] = top
  end
  table.sort(tops)
  floor = math.max(floor, tops[math.floor(#tops / 2) + 1])
  for topic, top in pairs(of) do
    if top <= floor then
      redis.call('HDEL', FLOORS, topic)
    end
  end
end
redis.call('HSET', META, 'trimmed', digits(up_to), 'bytes', digits(math.max(bytes, 0)), 'floor', digits(floor))
return answer(gone, gone == batch)
