-- Say how many parts a chord has, or how many more. KEYS: the chord. ARGV: the number, 'size' or 'extra', what names the
-- growth ('' for nothing), the name of the sorted sets, the group's id.
if ARGV[2] == 'size' then
    redis.call('HSET', KEYS[1], 'size', ARGV[1])
elseif ARGV[3] == '' or redis.call('HSETNX', KEYS[1], 'growth:' .. ARGV[3], 1) == 1 then
    redis.call('HINCRBY', KEYS[1], 'extra', ARGV[1])
end
note_waiting(see(KEYS[1]), ARGV[4], ARGV[5])
return 1
