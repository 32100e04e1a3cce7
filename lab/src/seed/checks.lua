-- One admitted check of each of many counters, written as a node writes it.
--
-- KEYS: the counters. ARGV: now in ms, the life of a counter in ms.
for _, name in ipairs(KEYS) do
  local sequence = redis.call('INCR', name .. ':seq')
  redis.call('ZADD', name, ARGV[1], ARGV[1] .. ':' .. sequence)
  redis.call('PEXPIRE', name, ARGV[2])
end
