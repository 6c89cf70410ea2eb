-- Store a task without an expiry, and add it to the journal. KEYS: the task, the stream, the versions. ARGV: blob;
-- message; the blob that is expected to be stored; the task's id.
local answer = may_write(KEYS[1], ARGV[1], ARGV[3])
if answer == 1 then
    write(KEYS[1], ARGV[1], '0', ARGV[2])
    add_to_journal(KEYS[2], KEYS[3], ARGV[4], false)
end
return answer
