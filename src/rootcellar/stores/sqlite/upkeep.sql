-- begin_job: a run of a job begins
INSERT INTO {job} (name, started_at, done) VALUES (:name, strftime('%Y-%m-%d %H:%M:%f', 'now') || '000', 0)
ON CONFLICT (name) DO UPDATE SET started_at = excluded.started_at, ended_at = NULL

-- end_job: the run of a job that began last ends
UPDATE {job} SET ended_at = strftime('%Y-%m-%d %H:%M:%f', 'now') || '000',
    seconds = round((julianday('now') - julianday(started_at)) * 86400, 3), done = :done, note = :note,
    succeeded_at = CASE WHEN :ok = 1 THEN strftime('%Y-%m-%d %H:%M:%f', 'now') || '000' ELSE succeeded_at END
WHERE name = :name

-- read_jobs: the last run of each job
SELECT name, started_at, ended_at, succeeded_at, seconds, done, note FROM {job} ORDER BY name

-- note_size: the size of a table today
INSERT INTO {size} (day, name, n, bytes) VALUES (date('now'), :name, :n, :bytes)
ON CONFLICT (day, name) DO UPDATE SET n = excluded.n, bytes = excluded.bytes

-- read_sizes: the sizes since a day
SELECT day, name, n, bytes FROM {size} WHERE day >= :since ORDER BY day, name
