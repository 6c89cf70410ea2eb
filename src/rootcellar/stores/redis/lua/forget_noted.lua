-- Forget tasks: leave marks in their places until they were moved. KEYS: the stream, the versions, the tasks. ARGV: for
-- each task its id and the mark.
for place = 3, #KEYS do
    local at = 2 * (place - 3)
    redis.call('SET', KEYS[place], ARGV[at + 2])
    note(KEYS[1], KEYS[2], ARGV[at + 1], true)
end
return 1
