-- Touches all keys that wait, so that Redis pushes them in one message: see gather.lua and bump.lua. Does nothing if another process has
-- done so.
--
-- If the set was lost, the process touches its own keys, and leaves no mark: the mark says that all keys of the set were touched.
--
-- KEYS[1]   the keys that wait
-- KEYS[2]   the mark that a set has been pushed
-- ARGV[1]   the number of the set that this process has added its keys to
-- ARGV[2]   the life of the mark, in milliseconds
-- ARGV[3…]  the keys that this process has added
-- returns   the number of touched keys
--
-- example  w is {t:a -> 7, t:b -> 7}, with 7 and t:a: w does not exist, the mark exists, t:a and t:b are pushed; returns 2. Then with 7 and
--          t:b: returns 0
if redis.call('EXISTS', KEYS[2]) == 1 then
  return 0
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local touched = 0
local function touch(key)
  redis.call('UNLINK', key)
  redis.call('SET', key, '')
  redis.call('UNLINK', key)
  touched = touched + 1
end
if first[2] and tonumber(first[2]) == tonumber(ARGV[1]) then
  local waiting = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
  for i = 1, #waiting, 2 do
    touch(waiting[i])
  end
  redis.call('UNLINK', KEYS[1])
  redis.call('SET', KEYS[2], '', 'PX', ARGV[2])
else
  for i = 3, #ARGV do
    touch(ARGV[i])
  end
end
return touched
