-- Count a part of a chord. KEYS: the chord. ARGV: the arguments of count().
return count(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9])
