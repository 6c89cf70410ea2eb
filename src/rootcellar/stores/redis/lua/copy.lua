-- Store a copy of a task of the other store. KEYS: the task, its burial. ARGV: blob; TTL; message; the blob that is expected
-- to be stored; 1 if the caller must compare a stored blob first; fingerprint; when the task ended; when the record was
-- made. Returns 'written', 'kept', 'buried', or 'compare' with the stored blob.
if is_buried(KEYS[2], ARGV[6], ARGV[7], ARGV[8]) then
    return {'buried'}
end
local head = redis.call('GETRANGE', KEYS[1], 0, 127)
local kind = string.sub(head, 2, 16) == SIGN and mark_of(head).kind
if head == '' or kind == 'F' then
    write(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
    return {'written'}
end
-- a blob that Celery wrote has no mark: the caller must read it
if kind and ARGV[5] ~= '1' then
    local new = mark_of(ARGV[1]).kind
    if kind == 'S' or (new ~= 'S' and not (new == 'D' and kind == 'P')) then
        return {'kept'}
    end
    if new == 'S' then
        write(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
        return {'written'}
    end
    -- a FAILURE over a state that is not done: the caller compares their times
end
local whole = redis.call('GET', KEYS[1])
if ARGV[4] ~= '' and whole == ARGV[4] then
    write(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
    return {'written'}
end
return {'compare', whole}
