-- Claim a complete chord that has no valid claim. KEYS: the chord. ARGV: claimant; lease in microseconds; the prefix of
-- the sorted sets; the group's id.
return claim(KEYS[1], read_chord(KEYS[1]), ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4])
