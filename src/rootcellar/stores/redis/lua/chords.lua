-- What scripts about chords share. A chord is one hash: its size, what was counted, who claimed it, its body and header,
-- and a field for each part. The chords that are complete and wait for their body are in a sorted set for each owner, by
-- the moment until which they are claimed.
local function now()
    local time = redis.call('TIME')
    return time[1] * 1000000 + time[2]
end

-- A field that is no number is taken as one that is not there: a damaged chord must not stop a look at many.
local function number(value)
    return value and tonumber(value) or nil
end

local function see(key)
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

-- `waiting` is the name of the sorted sets, without the owner.
local function note_waiting(chord, waiting, group)
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
    note_waiting(chord, waiting, group)
    return 1
end

-- A part puts off the chord's expiry, unless that never comes or the part says nothing. A chord without `expires_at`
-- never expires.
local function put_off(key, is_new, expires, lasts)
    if expires == '' then
        return
    end
    local stored = redis.call('HGET', key, 'expires_at')
    if is_new or (stored and stored ~= '' and tonumber(stored) < tonumber(expires)) then
        redis.call('HSET', key, 'expires_at', expires)
        if lasts ~= '0' then
            redis.call('PEXPIRE', key, lasts)
        end
    end
end

-- part: field, value, owner, claimant, lease in microseconds, until when the chord is kept at least, in microseconds ('' if
-- that is not said), how long that is in milliseconds (0 to leave it to a cleanup), the name of the sorted sets, the
-- group's id.
local function count(key, field, value, owner, claimant, lease, expires, lasts, waiting, group)
    local is_new = redis.call('EXISTS', key) == 0
    local before = see(key)
    if before.owner and before.owner ~= owner then
        redis.call('ZREM', waiting .. before.owner, group)
    end
    redis.call('HSET', key, 'owner', owner)
    if not before.done and redis.call('HSETNX', key, field, value) == 1 then
        redis.call('HINCRBY', key, 'counted', 1)
    end
    if not before.done then
        put_off(key, is_new, expires, lasts)
    end
    local chord = see(key)
    if before.owner ~= owner and chord.waits then
        note_waiting(chord, waiting, group)
    end
    local claimed = claim(key, chord, claimant, tonumber(lease), waiting, group)
    return {chord.size or -1, chord.counted, claimed, chord.done and 1 or 0}
end
