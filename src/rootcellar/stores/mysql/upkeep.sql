-- begin_job: a run of a job begins
INSERT INTO {job} (name, started_at, done) VALUES (%(name)s, UTC_TIMESTAMP(6), 0)
ON DUPLICATE KEY UPDATE started_at = VALUES(started_at), ended_at = NULL

-- end_job: the run of a job that began last ends
UPDATE {job} SET ended_at = UTC_TIMESTAMP(6),
    seconds = TIMESTAMPDIFF(MICROSECOND, started_at, UTC_TIMESTAMP(6)) / 1000000, done = %(done)s, note = %(note)s,
    ok = %(ok)s, succeeded_at = IF(%(ok)s = 1, UTC_TIMESTAMP(6), succeeded_at)
WHERE name = %(name)s

-- read_jobs: the last run of each job
SELECT name, started_at, ended_at, succeeded_at, seconds, ok, done, note FROM {job} ORDER BY name

-- note_size: the size of a table today
INSERT INTO {size} (day, name, n, bytes) VALUES (UTC_DATE(), %(name)s, %(n)s, %(bytes)s)
ON DUPLICATE KEY UPDATE n = VALUES(n), bytes = VALUES(bytes)

-- read_sizes: the sizes since a day
SELECT day, name, n, bytes FROM {size} WHERE day >= %(since)s ORDER BY day, name

-- spaces: the size of each table, and how much of its file is empty, from the catalog
SELECT TABLE_NAME, DATA_LENGTH + INDEX_LENGTH + DATA_FREE, DATA_FREE FROM information_schema.TABLES
WHERE TABLE_SCHEMA IN (COALESCE(%(task_schema)s, DATABASE()), COALESCE(%(group_schema)s, DATABASE()))
    AND TABLE_NAME IN %(tables)s
ORDER BY TABLE_NAME

-- forget_sizes: delete sizes that no forecast uses
DELETE FROM {size} WHERE day < UTC_DATE() - INTERVAL %(days)s DAY
