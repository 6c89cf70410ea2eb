-- Store a value that all processes share. KEYS: the values, the sorted set of their keys. ARGV: the key; the value; the
-- version that is expected ('' for any); a text that is unique to this call. Returns the new version, or 0 if another
-- version was there.
local version, call = 0, nil
local stored = redis.call('HGET', KEYS[1], ARGV[1])
if stored then
    version, call = string.match(stored, '^(%d+) %d+ (%S+) ')
    version = tonumber(version)
end
if call == ARGV[4] then
    -- this call is repeated, because its answer was lost
    return version
end
if ARGV[3] ~= '' and tonumber(ARGV[3]) ~= version then
    return 0
end
local time = redis.call('TIME')
local head = string.format('%d %.0f %s ', version + 1, time[1] * 1000000 + time[2], ARGV[4])
redis.call('HSET', KEYS[1], ARGV[1], head .. ARGV[2])
redis.call('ZADD', KEYS[2], 0, ARGV[1])
return version + 1
