-- One rate limit check, atomic: a sliding-window log of admitted requests.
--
-- KEYS: the counter, its limit, its sequence.
-- ARGV: now in ms; limit and window of the request, or ''; the defaults of both;
--       '1' to enforce the stored limit; '1' to admit regardless.
-- Returns: admitted (1 or 0), the count after it, the limit that applied, ms until the oldest
-- member leaves the window.
local now = tonumber(ARGV[1])
local limit, window = ARGV[2], ARGV[3]
if ARGV[6] == '1' and (limit == '' or window == '') then
  local stored = redis.call('HMGET', KEYS[2], 'limit', 'window_ms')
  if limit == '' then limit = stored[1] or '' end
  if window == '' then window = stored[2] or '' end
end
if limit == '' then limit = ARGV[4] end
if window == '' then window = ARGV[5] end
local most, span = tonumber(limit), tonumber(window)
if not most or not span then
  return redis.error_reply('ERR the stored limit is not a number')
end

redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - span)
local count = redis.call('ZCARD', KEYS[1])
local admitted = 0
if count < most or ARGV[7] == '1' then
  -- The sequence keeps two members of the same millisecond apart.
  local sequence = redis.call('INCR', KEYS[3])
  redis.call('ZADD', KEYS[1], ARGV[1], ARGV[1] .. ':' .. sequence)
  redis.call('PEXPIRE', KEYS[1], span + 1000)
  count = count + 1
  admitted = 1
end

local wait = span
local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if oldest[2] then
  wait = tonumber(oldest[2]) + span - now
end
return {admitted, count, limit, wait}
