-- Replace a task's blob if it has not changed, and keep its TTL. KEYS: the task. ARGV: the old blob, the new one.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return 0
end
local ttl = redis.call('PTTL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[2])
if ttl > 0 then
    redis.call('PEXPIRE', KEYS[1], ttl)
end
return 1
