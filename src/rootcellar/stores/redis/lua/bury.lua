-- Delete a task and store its burial, if the task has not changed since it was read. KEYS: the task, its burial. ARGV:
-- the SHA-1 of the blob that is expected ('' for none), and its fingerprint; the fingerprints of all that is buried,
-- joined; the latest end of it in microseconds since 1970 ('' for none); how many bytes of fingerprints are kept; how
-- many milliseconds the burial is kept. Returns 'done', or 'changed' with the blob that is stored.
local blob = redis.call('GET', KEYS[1])
local before = redis.call('HMGET', KEYS[2], 'done', 'names')
local done, names = before[1] or '', before[2] or ''
if (blob and redis.sha1hex(blob) or '') ~= ARGV[1] then
    -- without a task, it may be this call that deleted it, and whose answer was lost
    if not blob and has_name(names, ARGV[2]) then
        return {'done'}
    end
    return {'changed', blob}
end
for at = 1, #ARGV[3], FINGERPRINT_BYTES do
    local fingerprint = string.sub(ARGV[3], at, at + FINGERPRINT_BYTES - 1)
    if not has_name(names, fingerprint) then
        names = names .. fingerprint
    end
end
if ARGV[4] ~= '' and (done == '' or tonumber(done) < tonumber(ARGV[4])) then
    done = ARGV[4]
end
local time = redis.call('TIME')
redis.call('DEL', KEYS[1])
-- not as a number, which would lose digits
local at = string.format('%.0f', time[1] * 1000000 + time[2])
redis.call('HSET', KEYS[2], 'at', at, 'done', done, 'names', string.sub(names, -tonumber(ARGV[5])))
redis.call('PEXPIRE', KEYS[2], ARGV[6])
return {'done'}
