-- Delete a chord's body and parts. The rest of the hash is kept for a while, to refuse late parts. KEYS: the chord.
-- ARGV: for how many milliseconds it is kept; the prefix of the sorted sets; the group's id.
if redis.call('EXISTS', KEYS[1]) == 0 then
    return 0
end
local chord = read_chord(KEYS[1])
chord.waits = false
update_waiting_set(chord, ARGV[2], ARGV[3])
local left = redis.call('PTTL', KEYS[1])
local kept = redis.call('HMGET', KEYS[1], 'size', 'extra', 'expires_at')
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'done', 1, 'counted', chord.counted, 'expires_at', kept[3] or '')
if kept[1] then
    redis.call('HSET', KEYS[1], 'size', kept[1])
end
if kept[2] then
    redis.call('HSET', KEYS[1], 'extra', kept[2])
end
if left < 0 or left > tonumber(ARGV[1]) then
    left = ARGV[1]
end
redis.call('PEXPIRE', KEYS[1], left)
return 1
