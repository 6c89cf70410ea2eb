-- Delete tasks: replace each by a tombstone, and add it to the journal. KEYS: the stream, the versions, the tasks.
-- ARGV: for each task its id and its tombstone.
for place = 3, #KEYS do
    local at = 2 * (place - 3)
    redis.call('SET', KEYS[place], ARGV[at + 2])
    add_to_journal(KEYS[1], KEYS[2], ARGV[at + 1], true)
end
return 1
