-- Store a group of the other store if there is none, or if the stored one is the expected one. KEYS: the group. ARGV: blob;
-- TTL in milliseconds, 0 for no expiry; the blob that is expected ('' for none). Returns 1, or the stored blob.
local there = redis.call('GET', KEYS[1])
if there and there ~= ARGV[3] then
    return there
end
if ARGV[2] == '0' then
    redis.call('SET', KEYS[1], ARGV[1])
else
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return 1
