-- Gives back the lock of a fill, if its owner still holds it.
--
-- KEYS[1]  the lock
-- ARGV[1]  the token of the owner
-- ARGV[2]  the time in milliseconds for which other processes know that the response cannot be shared; 0: not at all
-- returns  1 if it was given back, 0 if it had ended or belongs to another owner
--
-- example  't1' with 't1' and 5000: 'pass', for five seconds; returns 1
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if tonumber(ARGV[2]) > 0 then
  redis.call('SET', KEYS[1], 'pass', 'PX', ARGV[2])
else
  redis.call('UNLINK', KEYS[1])
end
return 1
