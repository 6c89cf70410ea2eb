-- Store a task of the other store, whatever is stored, unless it is buried. KEYS: the task, its burial. ARGV: blob; TTL;
-- message; fingerprint; when the task ended. Returns 'written', or 'buried' with the stored blob.
if is_buried(KEYS[2], ARGV[4], ARGV[5], '') then
    return {'buried', redis.call('GET', KEYS[1])}
end
write(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
return {'written'}
