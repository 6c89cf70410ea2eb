-- Store a task without an expiry, add it to the journal, and count it as a part of a chord. KEYS: the task, the chord,
-- the stream, the versions. ARGV: blob; message; the blob that is expected to be stored; the task's id; then the
-- arguments of count().
local answer = may_write(KEYS[1], ARGV[1], ARGV[3])
if type(answer) == 'string' then
    return answer
end
if answer == 1 then
    write(KEYS[1], ARGV[1], '0', ARGV[2])
    add_to_journal(KEYS[3], KEYS[4], ARGV[4], false)
end
local progress = count(
    KEYS[2], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12], ARGV[13]
)
progress[5] = answer
return progress
