-- Takes the next number of the counter of creations.
--
-- The counter is a random text and a number. A counter that was lost and begins again is then not mistaken for the old one: numbers with
-- different random texts are never compared.
--
-- KEYS[1]  the counter
-- ARGV[1]  a new random text of 16 hexadecimal digits, for a missing counter
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
