-- What scripts that keep the journal share. The journal is a stream of the tasks that wait to be moved, each in it once,
-- and a hash of their versions: a flag ('f' if the task was forgotten since it was last moved, else 'p'), its entry in the
-- stream, and how often it changed since. No version ever comes again.
local function note(stream, versions, task, is_forgotten)
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
