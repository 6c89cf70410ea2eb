-- Claim a complete chord that has no valid claim. KEYS: the chord. ARGV: claimant, lease in microseconds, the name of the
-- sorted sets, the group's id.
return claim(KEYS[1], see(KEYS[1]), ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4])
