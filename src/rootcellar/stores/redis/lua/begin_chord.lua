-- Keep a chord's body and header, and forget an earlier run. KEYS: the chord. ARGV: body, header, when it expires in
-- microseconds ('' for never), how long that is in milliseconds (0 to leave it to a cleanup), the name of the sorted sets,
-- the group's id.
local chord = see(KEYS[1])
chord.waits = false
note_waiting(chord, ARGV[5], ARGV[6])
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'begun', 1, 'body', ARGV[1], 'header', ARGV[2], 'expires_at', ARGV[3])
if ARGV[4] ~= '0' then
    redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
return 1
