-- Puts an entry in the place of another, if that is still there.
--
-- KEYS[1]  the entry
-- ARGV[1]  the last bytes of the one that it replaces: its checksum, or the tag of its encryption, which no other value has
-- ARGV[2]  the new one
-- ARGV[3]  how long it is kept, in milliseconds
-- returns  1 if it was put there, 0 if there is another entry, or none
--
-- example  'old-tag' with 'tag', 'new' and 5000: 'new', for five seconds; returns 1
if redis.call('GETRANGE', KEYS[1], -#ARGV[1], -1) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
