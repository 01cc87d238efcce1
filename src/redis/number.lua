-- Writes the number of its creation into a generation that has none to compare with.
--
-- The number was taken after the generation was seen, so it says no less than when the generation was created. Not while there is a
-- fence, as with the making of one.
--
-- KEYS[1]  the generation of a namespace
-- KEYS[2]  its fences
-- ARGV[1]  the 16 bytes that it was seen with
-- ARGV[2]  'random:number'
-- returns  1 if it is still the same and has the number now; 0 if not, or if there is a fence
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
