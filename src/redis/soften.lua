-- Bumps a namespace softly: what was computed before is stale, not dead.
--
-- A generation is 16 bytes that decide over life and death, 8 that decide over freshness, then perhaps a number. The 8 change, and the
-- number goes: a response whose namespace is known only after its call is admitted by the number, which would say of a call from before
-- this bump that it came later. One that is missing stays missing: that is death already.
--
-- KEYS[1]  the generation of the namespace
-- ARGV[1]  8 fresh random bytes
-- returns  1 if there was a generation, else 0
--
-- example  'HHHHHHHHHHHHHHHHssssssssr:42' with 'tttttttt': 'HHHHHHHHHHHHHHHHtttttttt', its time to live as before; returns 1
local generation = redis.call('GET', KEYS[1])
if not generation or #generation < 24 then
  return 0
end
redis.call('SET', KEYS[1], string.sub(generation, 1, 16) .. ARGV[1], 'KEEPTTL')
return 1
