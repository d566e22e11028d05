-- Begins every function on a tenant's log: notices that the log is not the one it was, and loads what is
-- known of it.
--
-- KEYS  1 meta · 2 log · 3 versions · 4 floors · 5 relayed · 6 volatile (which versions no entry holds, by when)
--       7 absent: a key that never is. While its slot is on the way to another server, Redis refuses a call on keys of
--       which some are here and some are not before it begins (TRYAGAIN); without one that is not, it could meet a key
--       that has gone in the middle of a function, which nothing undoes.
-- ARGV  1 the epoch that the log gets where it starts afresh (16 hex digits of the caller's generator)
--
-- A restart, a failover and a move to another server change `run_id` or `master_replid`: what the log holds
-- may be older than what was told, so it starts afresh, and a position can never come back within an epoch.
local META, LOG, VERSIONS, FLOORS, RELAYED, VOLATILE = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]

local function info(section, field)
  return string.match(redis.call('INFO', section), field .. ':([^\r\n]*)')
end

local function digits(number)
  return string.format('%.0f', number)
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local run = info('server', 'run_id') .. ' ' .. info('replication', 'master_replid')
local meta = redis.call('HMGET', META, 'run', 'epoch', 'seq', 'trimmed', 'bytes', 'floor', 'fence', 'layout',
  'born', 'since')
local layout = tonumber(meta[8] or VERSION)
-- the version that wrote it last, and the oldest one that can read that
if tonumber(meta[10] or 0) > VERSION then
  return redis.error_reply('LAYOUT the log was written by a newer release')
end
local born = tonumber(meta[9] or 0)
if meta[1] ~= run then
  -- later than whatever this one follows, whatever the clocks say
  born = math.max(now, born + 1)
  redis.call('UNLINK', LOG, VERSIONS, FLOORS, RELAYED, VOLATILE)
  layout = VERSION
  redis.call('HSET', META, 'layout', VERSION, 'since', SINCE, 'run', run, 'epoch', ARGV[1], 'seq', 0,
    'trimmed', 0, 'bytes', 0, 'floor', 0, 'born', digits(born))
  meta = { run, ARGV[1], 0, 0, 0, 0, meta[7] }
end
local epoch, seq, trimmed = meta[2], tonumber(meta[3]), tonumber(meta[4])
local bytes, floor, fence = tonumber(meta[5]), tonumber(meta[6]), tonumber(meta[7] or 0)

-- An entry as nodes read it: number, event object, when it was appended, when it expires, class, what
-- everybody may see of it, where it comes from.
local function put_entry(out, entry)
  local fields = entry[2]
  out[#out + 1] = string.match(entry[1], '^%d+')
  for _, index in ipairs({ 2, 6, 8, 10, 16, 18 }) do
    out[#out + 1] = fields[index] or ''
  end
end
