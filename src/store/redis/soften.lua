-- Bumps a namespace softly: what was computed before is stale, not dead.
--
-- A generation is 16 bytes that decide over life and death, 8 that decide over freshness, then perhaps a number: only the 8 change.
-- One that is missing stays missing: that is death already.
--
-- KEYS[1]  the generation of the namespace
-- ARGV[1]  8 fresh random bytes
-- returns  1 if there was a generation, else 0
--
-- example  'HHHHHHHHHHHHHHHHssssssss' with 'tttttttt': 'HHHHHHHHHHHHHHHHtttttttt', its time to live as before; returns 1
if redis.call('STRLEN', KEYS[1]) < 24 then
  return 0
end
redis.call('SETRANGE', KEYS[1], 16, ARGV[1])
return 1
