-- Remove the tasks that were moved from the journal. KEYS: the stream, the versions, the set of refused tasks, the
-- tasks. ARGV: for each task its id; its entry and its version as they were read; the outcome; its TTL from now on
-- (milliseconds, 0 for no expiry); the blob that replaces it ('' for none).
local stream, versions, refused = KEYS[1], KEYS[2], KEYS[3]

local function remove(key, task, outcome, ttl, blob)
    redis.call('HDEL', versions, task)
    redis.call(outcome == 'refused' and 'SADD' or 'SREM', refused, task)
    if outcome == 'refused' then
        -- this is the only copy, and the server may evict keys that have an expiry: a cleanup deletes it
        return
    end
    if outcome == 'gone' then
        redis.call('DEL', key)
    elseif blob ~= '' then
        write(key, blob, ttl, blob)
    elseif ttl ~= '0' then
        redis.call('PEXPIRE', key, ttl)
    end
end

-- The task was stored or deleted again since it was read: it gets a new entry at the end of the stream.
local function requeue(task, version)
    local flag = string.sub(version, 1, 1)
    redis.call('HSET', versions, task, flag .. redis.call('XADD', stream, '*', 'task', task) .. '/1')
end

local removed = 0
for place = 4, #KEYS do
    local at = 6 * (place - 4)
    local task, entry, version = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
    local present = redis.call('HGET', versions, task)
    if present == version then
        remove(KEYS[place], task, ARGV[at + 4], ARGV[at + 5], ARGV[at + 6])
        removed = removed + 1
    elseif present and string.match(present, '^.(.-)/') == entry then
        requeue(task, present)
    end
    redis.call('XDEL', stream, entry)
end
return removed
