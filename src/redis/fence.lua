-- Sets a fence on a namespace, or moves its deadline on.
--
-- A fence is a set of tokens, each with a deadline: two writers have two tokens, and neither takes the other's away. While there is
-- one, nothing of the namespace is served or stored. Its generation goes at the same moment.
--
-- A server that is full refuses what could take memory only as the first write of a script: after the removal of what has ended, it
-- takes the fence.
--
-- KEYS[1]  the fences of the namespace, a sorted set: token -> deadline in milliseconds
-- KEYS[2]  the generation of the namespace, if it is to go with it: in a cluster, a script with two keys cannot be run while their slot
--          is on its way to another node, and the generation goes once all fences stand
-- ARGV[1]  the token of the writer
-- ARGV[2]  how long it stands, in milliseconds
-- returns  the number of fences that stand now
--
-- example  ZADD f 1700000030000 t1 at the time 1700000000000, then with t2 and 5000:
--          f is {t2 -> 1700000005000, t1 -> 1700000030000}, expires at 1700000030000; returns 2
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', tonumber(last[2])))
if KEYS[2] then
  redis.call('UNLINK', KEYS[2])
end
return redis.call('ZCARD', KEYS[1])
