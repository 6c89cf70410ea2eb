-- Shared by the scripts that store a task. A blob begins with a mark of fixed width (drawn in layouts/json_blob.py), so
-- the state is read from a few bytes, however large the blob is. Lua counts from 1: byte 16 of the drawing is 17 here.
local SIGN = '"rootcellar":"1'

local function mark_of(head)
    return {
        kind = string.sub(head, 17, 17),
        retries = tonumber(string.sub(head, 18, 25)),
        given = tonumber(string.sub(head, 26, 30)),
    }
end

-- Returns 1 if the blob may be written, 0 if the stored one must stay, or the stored one if its fields must first be
-- merged into the new one.
local function may_write(key, blob, expected)
    local head = redis.call('GETRANGE', key, 0, 127)
    if head == '' then
        return 1
    end
    -- a blob that Celery wrote has no mark: the caller must read it
    if string.sub(head, 2, 16) == SIGN then
        local there, new = mark_of(head), mark_of(blob)
        if there.kind == 'S' then
            return 0
        end
        -- a tombstone
        if there.kind == 'F' then
            return 1
        end
        if there.kind == 'D' and new.kind == 'P' and there.retries > new.retries then
            return 0
        end
        if bit.band(there.given, bit.bnot(new.given)) == 0 then
            return 1
        end
    end
    local whole = redis.call('GET', key)
    if expected ~= '' and whole == expected then
        return 1
    end
    return whole
end

-- Writes a blob and publishes a message. `ttl` is in milliseconds, 0 for no expiry. `message` is what waiting clients
-- get, '' for the blob itself.
local function write(key, blob, ttl, message)
    if ttl == '0' then
        redis.call('SET', key, blob)
    else
        redis.call('SET', key, blob, 'PX', ttl)
    end
    if message == '' then
        message = blob
    end
    redis.call('PUBLISH', key, message)
end
