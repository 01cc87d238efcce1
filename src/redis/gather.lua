-- Deletes generations, and adds the keys to touch to those of other processes, so that one push tells all of them: see push.lua.
--
-- The keys that wait are a sorted set. All have the same score: a random number that identifies the set.
--
-- A full server refuses a command that could take memory only if it is the first write of a script. After the deletions it accepts the
-- others.
--
-- KEYS[1]   the keys that wait
-- KEYS[2…]  generations
-- ARGV[1]   the number of a new set
-- ARGV[2]   the time after which a set that nobody has pushed is forgotten, in milliseconds
-- ARGV[3…]  the keys to touch
-- returns   the number of the set that the keys were added to
--
-- example  w does not exist, with 7 and t:a: w is {t:a -> 7}; returns 7. Then with 8 and t:b: w is {t:a -> 7, t:b -> 7}; returns 7
for i = 2, #KEYS do
  redis.call('UNLINK', KEYS[i])
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local number = first[2] or ARGV[1]
for i = 3, #ARGV do
  redis.call('ZADD', KEYS[1], number, ARGV[i])
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return tonumber(number)
