-- Delete shared values; return how many there were. KEYS: the values, the sorted set of their keys. ARGV: the keys.
local count = 0
for _, key in ipairs(ARGV) do
    count = count + redis.call('HDEL', KEYS[1], key)
    redis.call('ZREM', KEYS[2], key)
end
return count
