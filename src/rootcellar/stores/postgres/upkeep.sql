-- begin_job: a run of a job begins
INSERT INTO {job} (name, started_at, done) VALUES (%(name)s, now(), 0)
ON CONFLICT (name) DO UPDATE SET started_at = excluded.started_at, ended_at = NULL

-- end_job: the run of a job that began last ends
UPDATE {job} SET ended_at = now(), seconds = extract(epoch FROM now() - started_at), done = %(done)s, note = %(note)s,
    succeeded_at = CASE WHEN %(ok)s = 1 THEN now() ELSE succeeded_at END
WHERE name = %(name)s

-- read_jobs: the last run of each job
SELECT name, started_at, ended_at, succeeded_at, seconds, done, note FROM {job} ORDER BY name

-- note_size: the size of a table today
INSERT INTO {size} (day, name, n, bytes) VALUES ((now() AT TIME ZONE 'UTC')::date, %(name)s, %(n)s, %(bytes)s)
ON CONFLICT (day, name) DO UPDATE SET n = excluded.n, bytes = excluded.bytes

-- read_sizes: the sizes since a day
SELECT day, name, n, bytes FROM {size} WHERE day >= %(since)s::date ORDER BY day, name
