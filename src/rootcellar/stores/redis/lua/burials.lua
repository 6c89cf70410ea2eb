-- Shared by the scripts for migrations. A burial is a hash. `at` is when it was made, and `done` the latest end of what it
-- buries ('' for none), in microseconds since 1970. `names` has the fingerprints of what it buries, joined.
local FINGERPRINT_BYTES = 16

local function has_name(names, fingerprint)
    for at = 1, #names, FINGERPRINT_BYTES do
        if string.sub(names, at, at + FINGERPRINT_BYTES - 1) == fingerprint then
            return true
        end
    end
    return false
end

-- Returns whether a record is refused. `done` is when it ended ('' for not yet), and `made` when it was made if that
-- counts too ('' otherwise), in microseconds since 1970.
local function is_buried(key, fingerprint, done, made)
    local v = redis.call('HMGET', key, 'at', 'done', 'names')
    if not v[1] then
        return false
    end
    if made ~= '' and tonumber(made) <= tonumber(v[1]) then
        return true
    end
    if done ~= '' and v[2] ~= '' and tonumber(done) <= tonumber(v[2]) then
        return true
    end
    return has_name(v[3], fingerprint)
end
