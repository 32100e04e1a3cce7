-- Writes many counters inside Redis, which is quicker by far than sending every command.
--
-- ARGV: the first number and the one after the last; digits of a name; members; their score in ms; the life of a counter in
-- ms; '1' for `:seq` siblings; every how many counters one has a limit of its own (0: none), and the window of that in ms.
local digits, members, score, life = ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6]
local every, window = tonumber(ARGV[8]), ARGV[9]
local entries = {}
for member = 1, members do
  entries[2 * member - 1] = score
  entries[2 * member] = score .. ':' .. member
end
for number = tonumber(ARGV[1]), tonumber(ARGV[2]) - 1 do
  local text = string.format('%d', number)
  local key = 'k' .. string.rep('0', digits - #text) .. text
  local name = 'ratelimit:' .. key
  if members > 0 then
    redis.call('ZADD', name, unpack(entries))
    redis.call('PEXPIRE', name, life)
  end
  if ARGV[7] == '1' then
    redis.call('SET', name .. ':seq', members)
  end
  if every > 0 and number % every == 0 then
    redis.call('HSET', 'ratelimit:limit:' .. key, 'limit', '100', 'window_ms', window)
  end
end
