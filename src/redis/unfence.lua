-- Removes a fence and invalidates the namespace, after its write has ended with a known outcome.
--
-- KEYS[1]  the fences of the namespace
-- KEYS[2]  the generation of the namespace
-- KEYS[3]  the key to touch: see bump.lua
-- ARGV[1]  the token of the writer
-- returns  1 if its fence still stood, 0 if it had ended
--
-- example  f is {t1 -> ..., t2 -> ...}, with t1: f is {t2 -> ...}, the generation is gone; returns 1
local stood = redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('UNLINK', KEYS[2])
redis.call('SET', KEYS[3], '')
redis.call('UNLINK', KEYS[3])
return stood
