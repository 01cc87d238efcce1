-- Invalidates a namespace, and makes Redis push that to all processes.
--
-- The generation is not tracked: its creation and the extension of its life concern nobody else. The touched key is tracked, and is
-- written and deleted at once, so that nothing remains. It is touched even if there is no generation: processes may still hold entries
-- of one that Redis has lost.
--
-- A full server refuses a command that could take memory only if it is the first write of a script. After the deletion it accepts the
-- other one.
--
-- KEYS[1]  the generation of the namespace
-- KEYS[2]  the key to touch
-- returns  1 if there was a generation, else 0
--
-- example  any generation or none: there is none, and the touched key does not exist; each tracking process gets one push
local gone = redis.call('UNLINK', KEYS[1])
redis.call('SET', KEYS[2], '')
redis.call('UNLINK', KEYS[2])
return gone
