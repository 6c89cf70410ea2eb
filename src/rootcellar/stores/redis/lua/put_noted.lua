-- Store a task until it was moved, and note it in the journal. KEYS: the task, the stream, the versions. ARGV: blob, news,
-- what is expected to be there, the task's id.
local answer = may_write(KEYS[1], ARGV[1], ARGV[3])
if answer == 1 then
    write(KEYS[1], ARGV[1], '0', ARGV[2])
    note(KEYS[2], KEYS[3], ARGV[4], false)
end
return answer
