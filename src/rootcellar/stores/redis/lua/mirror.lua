-- Store a task of the other store, unless it is buried or the stored one must stay. KEYS: the task, its burial. ARGV:
-- blob; TTL; message; the blob that is expected to be stored; fingerprint; when the task ended. Returns 'written',
-- 'kept' with the stored blob, 'buried' with it, or 'merge' with it if its fields must first be merged into the new one.
if is_buried(KEYS[2], ARGV[5], ARGV[6], '') then
    return {'buried', redis.call('GET', KEYS[1])}
end
local answer = may_write(KEYS[1], ARGV[1], ARGV[4])
if answer == 1 then
    write(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
    return {'written'}
end
if answer == 0 then
    return {'kept', redis.call('GET', KEYS[1])}
end
return {'merge', answer}
