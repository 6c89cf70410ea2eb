-- Delete a key that expires before a given moment. KEYS: the key; for a task that the durable store refused, also the
-- set of refused tasks. ARGV: the moment and now, in milliseconds since 1970; for a refused task, its id.
local before, moment = tonumber(ARGV[1]), tonumber(ARGV[2])
local expires
local left = redis.call('PTTL', KEYS[1])
if redis.call('TYPE', KEYS[1]).ok == 'hash' then
    local stored = redis.call('HGET', KEYS[1], 'expires_at')
    expires = stored and stored ~= '' and tonumber(stored) / 1000
    if left >= 0 then
        expires = math.min(expires or moment + left, moment + left)
    end
else
    local head = redis.call('GETRANGE', KEYS[1], 0, 63)
    if string.sub(head, 2, 16) == SIGN then
        expires = tonumber(string.sub(head, 31, 45))
        expires = expires > 0 and expires
    end
end
if not expires and left >= 0 then
    expires = moment + left
end
if expires and expires < before then
    if KEYS[2] then
        redis.call('SREM', KEYS[2], ARGV[3])
    end
    return redis.call('DEL', KEYS[1])
end
return 0
