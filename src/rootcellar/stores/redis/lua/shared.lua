-- Return the shared values whose keys begin with a text: each key, then its value. KEYS: the values, the sorted set of
-- their keys. ARGV: the text.
local found = {}
-- no key has the byte 255, because keys are UTF-8
for _, key in ipairs(redis.call('ZRANGEBYLEX', KEYS[2], '[' .. ARGV[1], '(' .. ARGV[1] .. '\255')) do
    found[#found + 1] = key
    found[#found + 1] = redis.call('HGET', KEYS[1], key)
end
return found
