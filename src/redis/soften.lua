-- Invalidates a namespace softly: responses from before are stale, but not invalidated.
--
-- A generation is 16 bytes for validity, 8 bytes for freshness, and perhaps a number. The 8 bytes change and the number is removed: it
-- would admit a response from a call before this invalidation. A missing generation stays missing, which invalidates already.
--
-- KEYS[1]  the generation of the namespace
-- KEYS[2]  the key to touch, if generations are not tracked: see bump.lua
-- ARGV[1]  8 new random bytes
-- returns  1 if there was a generation, else 0
--
-- example  'HHHHHHHHHHHHHHHHssssssssr:42' with 'tttttttt': 'HHHHHHHHHHHHHHHHtttttttt', its time to live as before; returns 1
local generation = redis.call('GET', KEYS[1])
local found = generation and #generation >= 24
if found then
  redis.call('SET', KEYS[1], string.sub(generation, 1, 16) .. ARGV[1], 'KEEPTTL')
end
if KEYS[2] then
  redis.call('SET', KEYS[2], '')
  redis.call('UNLINK', KEYS[2])
end
return found and 1 or 0
