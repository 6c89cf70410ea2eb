-- Shared by the scripts that write the journal. The journal is a stream, which has each task that is to be moved once,
-- and a hash of their versions. A version has a flag ('f' if the task was deleted since it was last moved, else 'p'),
-- the entry in the stream, and the number of changes since that entry. No version is used twice.
local function add_to_journal(stream, versions, task, is_forgotten)
    local before = redis.call('HGET', versions, task)
    local flag, entry, number = 'p', nil, 0
    if before then
        flag, entry, number = string.match(before, '^(.)(.-)/(%d+)$')
    else
        entry = redis.call('XADD', stream, '*', 'task', task)
    end
    if is_forgotten then
        flag = 'f'
    end
    redis.call('HSET', versions, task, flag .. entry .. '/' .. (number + 1))
end
