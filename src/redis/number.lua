-- Writes the number of its creation into a generation without a comparable number.
--
-- The number was taken after the generation was seen, so it is at least as large as that of the creation. It is not written while there
-- is a fence, for the reason in admit.lua.
--
-- KEYS[1]  the generation of a namespace
-- KEYS[2]  its fences
-- ARGV[1]  its first 16 bytes when it was seen
-- ARGV[2]  'random:number'
-- returns  1 if it is unchanged and has the number now; 0 if not, or if there is a fence
--
-- example  'HHHHHHHHHHHHHHHHssssssss' with 'HHHHHHHHHHHHHHHH' and 'r:42': 'HHHHHHHHHHHHHHHHssssssssr:42', its time to live as
--          before; returns 1
local generation = redis.call('GET', KEYS[1])
if redis.call('EXISTS', KEYS[2]) == 1 then
  return 0
end
if not generation or string.sub(generation, 1, 16) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], string.sub(generation, 1, 24) .. ARGV[2], 'KEEPTTL')
return 1
