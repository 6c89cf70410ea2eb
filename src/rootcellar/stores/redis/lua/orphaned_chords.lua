-- Find complete chords whose claim has run out. KEYS: the owner's sorted set. ARGV: how many at most, what the names of
-- chords begin with.
local found = {}
for _, group in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.0f', now()))) do
    if #found >= tonumber(ARGV[1]) then
        break
    end
    if see(ARGV[2] .. group).waits then
        found[#found + 1] = group
    else
        -- its time was over before anybody finished it
        redis.call('ZREM', KEYS[1], group)
    end
end
return found
