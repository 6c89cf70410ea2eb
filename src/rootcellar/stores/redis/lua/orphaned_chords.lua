-- Find complete chords whose claim has ended. KEYS: the owner's sorted set. ARGV: the most chords to return; the prefix
-- of the chords' keys.
local found = {}
for _, group in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.0f', now()))) do
    if #found >= tonumber(ARGV[1]) then
        break
    end
    if read_chord(ARGV[2] .. group).waits then
        found[#found + 1] = group
    else
        -- the chord expired before it was finished
        redis.call('ZREM', KEYS[1], group)
    end
end
return found
