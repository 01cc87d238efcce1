-- Sets a fence on a namespace, or extends its deadline.
--
-- The fences of a namespace are a set of tokens, each with a deadline: two writers have two tokens, and neither removes the other's. While
-- there is one, no entry of the namespace is served or stored. Its generation is deleted at the same moment.
--
-- A full server refuses a command that could take memory only if it is the first write of a script. After the removal of ended fences,
-- it accepts the new one.
--
-- KEYS[1]  the fences of the namespace, a sorted set: token -> deadline in milliseconds
-- KEYS[2]  the generation of the namespace, if it is to be deleted here. In a cluster, a script with two keys cannot run while their slot
--          is moving to another node: there the generation is deleted after all fences are set
-- ARGV[1]  the token of the writer
-- ARGV[2]  the time for which the fence stands, in milliseconds
-- returns  the number of standing fences
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
