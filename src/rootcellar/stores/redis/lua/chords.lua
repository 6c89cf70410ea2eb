-- Shared by the scripts for chords. A chord is one hash: its size, the number of counted parts, the claimant, the body,
-- the header, and a field for each part. A chord that is complete and whose body was not sent is in a sorted set of its
-- owner. Its score is the moment at which its claim ends.
local function now()
    local time = redis.call('TIME')
    return time[1] * 1000000 + time[2]
end

-- A field that is not a number counts as missing: one damaged chord must not stop the search for orphans.
local function number(value)
    return value and tonumber(value) or nil
end

local function read_chord(key)
    local v = redis.call('HMGET', key, 'size', 'extra', 'counted', 'owner', 'claimant', 'claimed_until', 'done')
    local size = number(v[1])
    size = size and size + (number(v[2]) or 0)
    local counted = number(v[3]) or 0
    return {
        size = size,
        counted = counted,
        owner = v[4],
        claimant = v[5],
        claimed_until = number(v[6]) or 0,
        done = v[7] and true or false,
        waits = size and not v[7] and counted >= size,
    }
end

-- Adds the chord to the sorted set of its owner if it is complete, and removes it otherwise. `waiting` is the name of
-- the set without the owner.
local function update_waiting_set(chord, waiting, group)
    if not chord.owner then
        return
    end
    if chord.waits then
        redis.call('ZADD', waiting .. chord.owner, chord.claimed_until, group)
    else
        redis.call('ZREM', waiting .. chord.owner, group)
    end
end

local function claim(key, chord, claimant, lease, waiting, group)
    local moment = now()
    if not chord.waits or (chord.claimed_until > moment and chord.claimant ~= claimant) then
        return 0
    end
    chord.claimed_until = moment + lease
    -- not as a number, which would lose digits
    redis.call('HSET', key, 'claimant', claimant, 'claimed_until', string.format('%.0f', chord.claimed_until))
    update_waiting_set(chord, waiting, group)
    return 1
end

-- Sets the chord's expiry to that of the part if that is later. A chord without `expires_at` never expires, and a part
-- without an expiry changes nothing.
local function postpone_expiry(key, is_new, expires, ttl)
    if expires == '' then
        return
    end
    local stored = redis.call('HGET', key, 'expires_at')
    if is_new or (stored and stored ~= '' and tonumber(stored) < tonumber(expires)) then
        redis.call('HSET', key, 'expires_at', expires)
        if ttl ~= '0' then
            redis.call('PEXPIRE', key, ttl)
        end
    end
end

-- Counts a part, and claims the chord if that completes it. Arguments: the part's field and value; the owner; the
-- claimant; the lease in microseconds; until when the chord is kept at least, in microseconds since 1970 ('' if the
-- part does not say); the TTL in milliseconds until then (0 if a cleanup deletes the chord); the prefix of the sorted
-- sets; the group's id.
local function count(key, field, value, owner, claimant, lease, expires, ttl, waiting, group)
    local is_new = redis.call('EXISTS', key) == 0
    local before = read_chord(key)
    if before.owner and before.owner ~= owner then
        redis.call('ZREM', waiting .. before.owner, group)
    end
    redis.call('HSET', key, 'owner', owner)
    if not before.done and redis.call('HSETNX', key, field, value) == 1 then
        redis.call('HINCRBY', key, 'counted', 1)
    end
    if not before.done then
        postpone_expiry(key, is_new, expires, ttl)
    end
    local chord = read_chord(key)
    if before.owner ~= owner and chord.waits then
        update_waiting_set(chord, waiting, group)
    end
    local claimed = claim(key, chord, claimant, tonumber(lease), waiting, group)
    return {chord.size or -1, chord.counted, claimed, chord.done and 1 or 0}
end
