-- Replaces an entry, if it is still there.
--
-- KEYS[1]  the entry
-- ARGV[1]  its last bytes: its checksum, or the tag of its encryption, which no other value has
-- ARGV[2]  the new entry
-- ARGV[3]  the time to live of the new entry, in milliseconds
-- returns  1 if it was replaced, 0 if there is another entry or none
--
-- example  'old-tag' with 'tag', 'new' and 5000: 'new', for five seconds; returns 1
if redis.call('GETRANGE', KEYS[1], -#ARGV[1], -1) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
