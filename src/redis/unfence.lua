-- Removes a fence and invalidates the namespace, after its write has ended with a known outcome.
--
-- KEYS[1]  the fences of the namespace
-- KEYS[2]  the generation of the namespace
-- ARGV[1]  the token of the writer
-- returns  1 if its fence still stood, 0 if it had ended
--
-- example  f is {t1 -> ..., t2 -> ...}, with t1: f is {t2 -> ...}, the generation is gone; returns 1
local stood = redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('UNLINK', KEYS[2])
return stood
