-- Delete a task that was moved; return 0 if it was not moved. KEYS: the task, the versions, the set of refused tasks.
-- ARGV: the task's id.
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 or redis.call('SISMEMBER', KEYS[3], ARGV[1]) == 1 then
    return 0
end
redis.call('DEL', KEYS[1])
return 1
