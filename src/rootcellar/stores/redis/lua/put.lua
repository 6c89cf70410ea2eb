-- Store a task. KEYS: the task. ARGV: blob; TTL; message; the blob that is expected to be stored.
local answer = may_write(KEYS[1], ARGV[1], ARGV[4])
if answer == 1 then
    write(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
end
return answer
