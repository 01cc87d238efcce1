-- Invalidates a namespace softly: responses from before are stale, but not invalidated.
--
-- A generation is 16 bytes for validity, 8 bytes for freshness, and perhaps a number. The 8 bytes change and the number is removed: it
-- would admit a response from a call before this invalidation. A missing generation stays missing, which invalidates already.
--
-- KEYS[1]  the generation of the namespace
-- ARGV[1]  8 new random bytes
-- returns  1 if there was a generation, else 0
--
-- example  'HHHHHHHHHHHHHHHHssssssssr:42' with 'tttttttt': 'HHHHHHHHHHHHHHHHtttttttt', its time to live as before; returns 1
local generation = redis.call('GET', KEYS[1])
if not generation or #generation < 24 then
  return 0
end
redis.call('SET', KEYS[1], string.sub(generation, 1, 16) .. ARGV[1], 'KEEPTTL')
return 1
