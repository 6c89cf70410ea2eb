-- begin_job: a run of a job begins
INSERT INTO {job} (name, started_at, done) VALUES (:name, strftime('%Y-%m-%d %H:%M:%f', 'now') || '000', 0)
ON CONFLICT (name) DO UPDATE SET started_at = excluded.started_at, ended_at = NULL

-- end_job: the run of a job that began last ends
UPDATE {job} SET ended_at = strftime('%Y-%m-%d %H:%M:%f', 'now') || '000',
    seconds = round((julianday('now') - julianday(started_at)) * 86400, 3), done = :done, note = :note,
    ok = :ok, succeeded_at = CASE WHEN :ok = 1 THEN strftime('%Y-%m-%d %H:%M:%f', 'now') || '000' ELSE succeeded_at END
WHERE name = :name

-- read_jobs: the last run of each job
SELECT name, started_at, ended_at, succeeded_at, seconds, ok, done, note FROM {job} ORDER BY name

-- note_size: the size of a table today
INSERT INTO {size} (day, name, n, bytes) VALUES (date('now'), :name, :n, :bytes)
ON CONFLICT (day, name) DO UPDATE SET n = excluded.n, bytes = excluded.bytes

-- read_sizes: the sizes since a day
SELECT day, name, n, bytes FROM {size} WHERE day >= :since ORDER BY day, name

-- spaces: the size of the file, and how much of it is empty
SELECT 'the whole file', (SELECT page_count FROM pragma_page_count) * (SELECT page_size FROM pragma_page_size),
    (SELECT freelist_count FROM pragma_freelist_count) * (SELECT page_size FROM pragma_page_size)

-- checkpoint: write the log into the file, without waiting for readers and writers; whether some of it is left
PRAGMA wal_checkpoint(PASSIVE)

-- forget_sizes: delete sizes that no forecast uses
DELETE FROM {size} WHERE day < date('now', '-' || :days || ' days')
