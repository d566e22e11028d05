-- Numbers events, keeps them and sends them to every node.
--
-- ARGV  2 `PUBLISH`, or `SPUBLISH` in a cluster · 3 live channel · 4 prefix of the tenant's keys · 5 fence, or empty
--       6 most entries · 7 most bytes · 8 outbox ids whose rows are gone, comma-separated · then requests, each:
--   key of its answer, or empty · hash of the request · ms its answer is kept · outbox id, or empty
--   number of groups, then groups, each: number of events, then events, each:
--     topic · class · name and key · version, or empty · µs to live, or empty · name against repetition, or
--     empty · ms it is remembered · the event object up to its id · its data · the object's end
--     what everybody may see, or empty · origin · µs since it was accepted · mirror channels, a line each, or empty
--     mirror message
-- Answers { epoch, seq, now, a word per request, how many old entries the ceiling removed, how many messages were
-- mirrored, how many could not be, and when the epoch began }; a word is `ok` with an outcome per group, `reused` or `relayed`.
if ARGV[5] ~= '' then
  local own = tonumber(ARGV[5])
  if own < fence then
    return redis.error_reply('FENCED ' .. digits(fence))
  end
  if own > fence then
    redis.call('HSET', META, 'fence', ARGV[5])
  end
end
for id in string.gmatch(ARGV[8], '%d+') do
  redis.call('SREM', RELAYED, id)
end

local CHANNEL, PREFIX, CEILING, MOST_BYTES = ARGV[3], ARGV[4], tonumber(ARGV[6]), tonumber(ARGV[7])
local cursor = 8
local function take()
  cursor = cursor + 1
  return ARGV[cursor]
end

-- Microseconds since 1970 as RFC 3339 with milliseconds (days to civil date after Howard Hinnant,
-- https://howardhinnant.github.io/date_algorithms.html).
local function rfc3339(us)
  local div = function(a, b) return math.floor(a / b) end
  local ms = div(us, 1000)
  local z = div(ms, 86400000) + 719468
  local rest = ms % 86400000
  local era = div(z, 146097)
  local doe = z - era * 146097
  local yoe = div(doe - div(doe, 1460) + div(doe, 36524) - div(doe, 146096), 365)
  local doy = doe - (365 * yoe + div(yoe, 4) - div(yoe, 100))
  local mp = div(5 * doy + 2, 153)
  local day = doy - div(153 * mp + 2, 5) + 1
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', year, month, day, div(rest, 3600000),
    div(rest, 60000) % 60, div(rest, 1000) % 60, rest % 1000)
end

-- Whether one 64-bit number, as text, is greater than another; a Lua number would round them.
local function is_greater(a, b)
  local below_a, below_b = string.sub(a, 1, 1) == '-', string.sub(b, 1, 1) == '-'
  if below_a ~= below_b then
    return below_b
  end
  if below_a then
    a, b = string.sub(b, 2), string.sub(a, 2)
  end
  if #a ~= #b then
    return #a > #b
  end
  return a > b
end

local stamp, now_text = rfc3339(now), digits(now)
local live, mirrored = {}, {}
local function netstring(part)
  return #part .. ':' .. part .. ','
end
local function send(...)
  for _, part in ipairs({ ... }) do
    live[#live + 1] = netstring(part)
  end
  for index = 2, #ADDED, 2 do
    live[#live + 1] = netstring(ADDED[index])
  end
end

local function take_event()
  local event = {
    topic = take(), class = take(), vkey = take(), version = take(), ttl = take(), dedup = take(),
    window = take(), head = take(), data = take(), tail = take(), public = take(), origin = take(),
    waited = take(), channel = take(), mirror = take(),
  }
  event.field = event.topic .. '\0' .. event.vkey
  event.volatile = event.class == 'volatile'
  return event
end

local function remember(event, at)
  if event.version ~= '' then
    redis.call('HSET', VERSIONS, event.field, event.version .. ' ' .. digits(seq) .. (event.volatile and 'v' or ''))
    if event.volatile then
      redis.call('ZADD', VOLATILE, now_text, event.field)
    end
  end
  if event.dedup ~= '' then
    redis.call('SET', PREFIX .. 'dedup:' .. event.topic .. '\0' .. event.dedup, epoch .. ' ' .. at, 'PX',
      event.window)
  end
end

local function append(event)
  local expires = event.ttl ~= '' and digits(now + tonumber(event.ttl)) or ''
  if event.volatile then
    local object = event.head .. ',"ts":"' .. stamp .. '","data":' .. event.data .. event.tail
    send('', object, now_text, expires, event.class, event.public, event.origin, event.waited)
    remember(event, '0')
    return
  end
  seq = seq + 1
  local number = digits(seq)
  local object = event.head .. ',"id":"' .. epoch .. '-' .. number .. '","ts":"' .. stamp .. '","data":'
    .. event.data .. event.tail
  redis.call('XADD', LOG, 'MAXLEN', '~', CEILING, number .. '-0', 'data', object, 'timestamp', stamp,
    'at', now_text, 'expires', expires, 'class', event.class, 'topic', event.topic,
    'vkey', event.version ~= '' and event.vkey or '', 'public', event.public, 'origin', event.origin, unpack(ADDED))
  bytes = bytes + #object + #event.public + 128
  send(number, object, now_text, expires, event.class, event.public, event.origin, event.waited)
  remember(event, number)
  if event.channel ~= '' then
    mirrored[#mirrored + 1] = event
  end
end

-- Appends all events of a group that were not named before, or none where a version is not greater.
local function append_group()
  local events, fresh, before = {}, {}, nil
  for index = 1, tonumber(take()) do
    events[index] = take_event()
  end
  for _, event in ipairs(events) do
    local known = event.dedup ~= ''
      and redis.call('GET', PREFIX .. 'dedup:' .. event.topic .. '\0' .. event.dedup)
    local at = known and string.match(known, '^' .. epoch .. ' (%d+)$')
    if at then
      before = math.max(before or 0, tonumber(at))
    else
      local stored = event.version ~= '' and redis.call('HGET', VERSIONS, event.field)
      local version = stored and string.match(stored, '^%S+')
      if version and not is_greater(event.version, version) then
        return 's:' .. version
      end
      fresh[#fresh + 1] = event
    end
  end
  if #fresh == 0 and before then
    return 'a:' .. digits(before) .. ':1'
  end
  for _, event in ipairs(fresh) do
    append(event)
  end
  return 'a:' .. (#fresh > 0 and fresh[1].volatile and '0' or digits(seq)) .. ':0'
end

-- Passes over a request that is not carried out.
local function skip_groups(count)
  for _ = 1, count do
    local events = tonumber(take())
    cursor = cursor + 15 * events
  end
end

local answers = {}
while cursor < #ARGV do
  local key, hash, keep, outbox_id, groups = take(), take(), take(), take(), tonumber(take())
  local stored = key ~= '' and redis.call('GET', PREFIX .. 'answer:' .. key)
  local stored_epoch, stored_hash, stored_answer = string.match(stored or '', '^(%x+)\n([^\n]*)\n(.*)$')
  local answer
  if outbox_id ~= '' and redis.call('SISMEMBER', RELAYED, outbox_id) == 1 then
    skip_groups(groups)
    answer = 'relayed'
  elseif stored_epoch == epoch then
    skip_groups(groups)
    answer = stored_hash == hash and stored_answer or 'reused'
  else
    local outcomes = {}
    for index = 1, groups do
      outcomes[index] = append_group()
    end
    answer = 'ok ' .. table.concat(outcomes, ',')
    if key ~= '' then
      redis.call('SET', PREFIX .. 'answer:' .. key, epoch .. '\n' .. hash .. '\n' .. answer, 'PX', keep)
    end
    if outbox_id ~= '' then
      redis.call('SADD', RELAYED, outbox_id)
    end
  end
  answers[#answers + 1] = answer
end

-- Twice what retention keeps, and no more, whoever does not trim meanwhile: nobody knows then whose it was.
local over = 0
local function cut_short(gone, left)
  over, bytes, trimmed, floor = over + gone - trimmed, left, gone, math.max(floor, gone)
  redis.call('HSET', META, 'trimmed', digits(trimmed), 'floor', digits(floor))
end
if seq - trimmed > CEILING then
  -- the stream's own ceiling may have removed what the leader has not trimmed
  local first = redis.call('XRANGE', LOG, '-', '+', 'COUNT', 1)[1]
  local gone = first and tonumber(string.match(first[1], '^%d+')) - 1 or seq
  if gone > trimmed then
    cut_short(gone, math.floor(bytes * (seq - gone) / (seq - trimmed)))
  end
end
if bytes > MOST_BYTES then
  local gone, left = trimmed, bytes
  for _, entry in ipairs(redis.call('XRANGE', LOG, '-', '+', 'COUNT', 1000)) do
    if left <= MOST_BYTES then
      break
    end
    gone, left = tonumber(string.match(entry[1], '^%d+')), left - #entry[2][2] - #entry[2][16] - 128
  end
  redis.call('XTRIM', LOG, 'MINID', digits(gone + 1) .. '-0')
  cut_short(gone, math.max(left, 0))
end
redis.call('HSET', META, 'seq', digits(seq), 'bytes', digits(bytes))
if VERSION > layout then
  redis.call('HSET', META, 'layout', VERSION, 'since', SINCE)
end
if #live > 0 then
  redis.call(ARGV[2], CHANNEL, netstring(digits(VERSION)) .. netstring(digits(SINCE)) .. netstring(digits(8 + #ADDED / 2))
    .. netstring(epoch) .. table.concat(live))
end
local heard, unheard = 0, 0
for _, event in ipairs(mirrored) do
  for channel in string.gmatch(event.channel, '[^\n]+') do
    -- where others may not be published to, the log goes on all the same
    local sent = redis.pcall('PUBLISH', channel, event.mirror)
    if type(sent) == 'table' then
      unheard = unheard + 1
    else
      heard = heard + 1
    end
  end
end
return { epoch, digits(seq), now_text, answers, over, heard, unheard, digits(born) }
