-- Take out of the journal what was moved. KEYS: the stream, the versions, the set of what was refused, the tasks. ARGV: for
-- each task its id, its entry and its version as they were read, what became of it, how long it lasts (milliseconds, 0
-- for ever), and the blob to have in its place ('' to leave it).
local stream, versions, refused = KEYS[1], KEYS[2], KEYS[3]

local function take_out(key, task, outcome, lasts, blob)
    redis.call('HDEL', versions, task)
    redis.call(outcome == 'refused' and 'SADD' or 'SREM', refused, task)
    if outcome == 'refused' then
        -- it is nowhere else, and the server may evict what expires: a cleanup deletes it
        return
    end
    if outcome == 'gone' then
        redis.call('DEL', key)
    elseif blob ~= '' then
        write(key, blob, lasts, blob)
    elseif lasts ~= '0' then
        redis.call('PEXPIRE', key, lasts)
    end
end

-- it was stored or forgotten again meanwhile, and waits from now on
local function put_off(task, version)
    local flag = string.sub(version, 1, 1)
    redis.call('HSET', versions, task, flag .. redis.call('XADD', stream, '*', 'task', task) .. '/1')
end

local settled = 0
for place = 4, #KEYS do
    local at = 6 * (place - 4)
    local task, entry, version = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
    local present = redis.call('HGET', versions, task)
    if present == version then
        take_out(KEYS[place], task, ARGV[at + 4], ARGV[at + 5], ARGV[at + 6])
        settled = settled + 1
    elseif present and string.match(present, '^.(.-)/') == entry then
        put_off(task, present)
    end
    redis.call('XDEL', stream, entry)
end
return settled
