-- Takes the next number of the counter of creations.
--
-- The counter is a random text and a number, so that one which was lost and begins again is not taken for the old one: numbers of
-- different randoms never compare.
--
-- KEYS[1]  the counter
-- ARGV[1]  a fresh random text of 16 hexadecimal digits, for a counter that is missing
-- returns  'random:number'
--
-- example  '0123456789abcdef:41': '0123456789abcdef:42'
local counter = redis.call('GET', KEYS[1])
local random, number
if counter then
  random, number = string.match(counter, '^(%x+):(%d+)$')
end
if not random then
  random, number = ARGV[1], 0
end
local next = random .. ':' .. string.format('%.0f', tonumber(number) + 1)
redis.call('SET', KEYS[1], next)
return next
