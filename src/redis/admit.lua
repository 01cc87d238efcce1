-- Reads the generation of a namespace that is known only from a response, and makes it if it is missing.
--
-- Not while there is a fence: a generation that was made inside of one would outlive the crash of its writer, and say of a response
-- computed before the write that it was not.
--
-- KEYS[1]  the generation of the namespace
-- KEYS[2]  its fences
-- ARGV[1]  24 fresh random bytes
-- ARGV[2]  how long a generation lives, in milliseconds
-- returns  the generation, made or found, with its number if it has one; nil if there is a fence
--
-- example  no generation, no fence: the fresh one; afterwards, with whatever bytes: the same again
if redis.call('EXISTS', KEYS[2]) == 1 then
  return false
end
local generation = redis.call('GET', KEYS[1])
if generation then
  return generation
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
