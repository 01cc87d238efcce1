-- Reads the generation of a namespace that only a response has named, and creates it if it is missing.
--
-- It is not created while there is a fence: it would outlive the crash of the fence's writer, and vouch for a response that was computed
-- before the write.
--
-- KEYS[1]  the generation of the namespace
-- KEYS[2]  its fences
-- ARGV[1]  24 new random bytes
-- ARGV[2]  the life of a new generation, in milliseconds
-- returns  the generation, created or found, with its number if it has one; nil if there is a fence
--
-- example  no generation, no fence: the new bytes; afterwards, with any other bytes: the same as before
if redis.call('EXISTS', KEYS[2]) == 1 then
  return false
end
local generation = redis.call('GET', KEYS[1])
if generation then
  return generation
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
