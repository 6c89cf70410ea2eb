-- Put another blob in a task's place, where it is still what it was; it lasts as long. KEYS: the task. ARGV: old, new.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return 0
end
local lasts = redis.call('PTTL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[2])
if lasts > 0 then
    redis.call('PEXPIRE', KEYS[1], lasts)
end
return 1
