-- Set the number of a chord's parts, or add to it. KEYS: the chord. ARGV: the number; 'size' to set it or 'extra' to
-- add to it; the idempotency key of an addition ('' for none); the prefix of the sorted sets; the group's id.
if ARGV[2] == 'size' then
    redis.call('HSET', KEYS[1], 'size', ARGV[1])
elseif ARGV[3] == '' or redis.call('HSETNX', KEYS[1], 'growth:' .. ARGV[3], 1) == 1 then
    redis.call('HINCRBY', KEYS[1], 'extra', ARGV[1])
end
update_waiting_set(read_chord(KEYS[1]), ARGV[4], ARGV[5])
return 1
