-- Store tasks that were sent, without an expiry, and add them to the journal. A task that has a key, also a tombstone,
-- stays as it is. KEYS: the stream, the versions, the tasks. ARGV: for each task its id and its blob.
for place = 3, #KEYS do
    local at = 2 * (place - 3)
    if redis.call('SET', KEYS[place], ARGV[at + 2], 'NX') then
        add_to_journal(KEYS[1], KEYS[2], ARGV[at + 1], false)
    end
end
return 1
