-- Store a chord's body and header, and delete an earlier run. KEYS: the chord. ARGV: body; header; when the chord
-- expires, in microseconds since 1970 ('' for never); its TTL in milliseconds (0 if a cleanup deletes it); the prefix
-- of the sorted sets of waiting chords; the group's id.
local chord = read_chord(KEYS[1])
chord.waits = false
update_waiting_set(chord, ARGV[5], ARGV[6])
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'begun', 1, 'body', ARGV[1], 'header', ARGV[2], 'expires_at', ARGV[3])
if ARGV[4] ~= '0' then
    redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
return 1
