-- begin_job: a run of a job begins
INSERT INTO {job} (name, started_at, done) VALUES (%(name)s, now(), 0)
ON CONFLICT (name) DO UPDATE SET started_at = excluded.started_at, ended_at = NULL

-- end_job: the run of a job that began last ends
UPDATE {job} SET ended_at = now(), seconds = extract(epoch FROM now() - started_at), done = %(done)s, note = %(note)s,
    ok = %(ok)s, succeeded_at = CASE WHEN %(ok)s = 1 THEN now() ELSE succeeded_at END
WHERE name = %(name)s

-- read_jobs: the last run of each job
SELECT name, started_at, ended_at, succeeded_at, seconds, ok, done, note FROM {job} ORDER BY name

-- note_size: the size of a table today
INSERT INTO {size} (day, name, n, bytes) VALUES ((now() AT TIME ZONE 'UTC')::date, %(name)s, %(n)s, %(bytes)s)
ON CONFLICT (day, name) DO UPDATE SET n = excluded.n, bytes = excluded.bytes

-- read_sizes: the sizes since a day
SELECT day, name, n, bytes FROM {size} WHERE day >= %(since)s::date ORDER BY day, name

-- autovacuum: the settings by which the server vacuums by itself
SELECT name, setting FROM pg_settings
WHERE name IN ('autovacuum', 'track_counts', 'autovacuum_vacuum_threshold', 'autovacuum_vacuum_scale_factor')

-- vacuum_states: our tables and their partitions; GREATEST ignores NULL
WITH named AS (SELECT to_regclass(name)::oid AS oid FROM unnest(%(tables)s::text[]) AS name),
    ours AS (SELECT oid FROM named UNION SELECT i.inhrelid FROM pg_inherits AS i JOIN named ON named.oid = i.inhparent)
SELECT c.oid::regclass::text, CASE WHEN s.n_live_tup > 0 THEN s.n_live_tup ELSE greatest(c.reltuples, 0)::bigint END,
    coalesce(s.n_dead_tup, 0), greatest(s.last_vacuum, s.last_autovacuum), greatest(s.last_analyze, s.last_autoanalyze),
    coalesce(c.reloptions, '{}'),
    pg_has_role(c.relowner, 'USAGE') OR CASE WHEN current_setting('server_version_num')::int >= 170000
        THEN has_table_privilege(c.oid, 'MAINTAIN') ELSE false END,
    pg_get_userbyid(c.relowner)::text
FROM ours JOIN pg_class AS c ON c.oid = ours.oid LEFT JOIN pg_stat_all_tables AS s ON s.relid = c.oid
WHERE c.relkind = 'r' ORDER BY 1

-- vacuum_holders: what keeps dead rows from being removed, or keeps the log of the server
SELECT 'transaction', a.pid::text, a.usename::text, a.application_name, a.state,
    extract(epoch FROM clock_timestamp() - a.xact_start)::float8, greatest(age(a.backend_xmin), age(a.backend_xid)),
    NULL::bigint
FROM pg_stat_activity AS a
WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
    AND a.backend_type NOT IN ('autovacuum worker', 'parallel worker', 'walsender')
    AND coalesce(a.backend_xmin, a.backend_xid) IS NOT NULL
    AND a.xact_start < clock_timestamp() - make_interval(secs => %(older_than)s)
    -- the snapshot of a vacuum holds back no other one
    AND NOT EXISTS (SELECT 1 FROM pg_stat_progress_vacuum AS v WHERE v.pid = a.pid)
UNION ALL
SELECT 'prepared transaction', p.gid, p.owner::text, NULL, NULL,
    extract(epoch FROM clock_timestamp() - p.prepared)::float8, age(p.transaction), NULL
FROM pg_prepared_xacts AS p
WHERE p.database = current_database() AND p.prepared < clock_timestamp() - make_interval(secs => %(older_than)s)
UNION ALL
SELECT 'replication slot', s.slot_name::text, NULL, s.slot_type, CASE WHEN s.active THEN 'active' ELSE 'unused' END, NULL,
    age(s.xmin), CASE WHEN NOT pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::bigint END
FROM pg_replication_slots AS s
WHERE age(s.xmin) > %(transactions)s
    OR (NOT s.active AND (s.restart_lsn IS NOT NULL OR s.xmin IS NOT NULL OR s.catalog_xmin IS NOT NULL))
UNION ALL
SELECT 'standby', coalesce(nullif(r.application_name, ''), r.client_addr::text, r.pid::text), r.usename::text,
    'hot_standby_feedback', r.state, NULL, age(r.backend_xmin), NULL
FROM pg_stat_replication AS r
WHERE age(r.backend_xmin) > %(transactions)s
ORDER BY 6 DESC NULLS LAST, 2

-- hidden_sessions: sessions of this database that this user cannot see
SELECT count(*), current_user::text FROM pg_stat_activity AS a
WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.backend_type IS NULL

-- invalid_indexes: indexes that no query uses; the index of a partitioned table is valid when its parts are
WITH named AS (SELECT to_regclass(name)::oid AS oid FROM unnest(%(tables)s::text[]) AS name),
    ours AS (SELECT oid FROM named UNION SELECT i.inhrelid FROM pg_inherits AS i JOIN named ON named.oid = i.inhparent)
SELECT i.indexrelid::regclass::text, i.indrelid::regclass::text, c.relname::text,
    EXISTS (
        SELECT 1 FROM pg_locks AS l
        WHERE l.relation = i.indrelid AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
            AND l.mode = 'ShareUpdateExclusiveLock' AND l.pid <> pg_backend_pid()
    ),
    pg_has_role(t.relowner, 'USAGE'), pg_get_userbyid(t.relowner)::text
FROM ours JOIN pg_index AS i ON i.indrelid = ours.oid JOIN pg_class AS c ON c.oid = i.indexrelid
    JOIN pg_class AS t ON t.oid = i.indrelid
WHERE NOT i.indisvalid AND c.relkind = 'i' ORDER BY 1

-- forget_sizes: delete sizes that no forecast uses
DELETE FROM {size} WHERE day < (now() AT TIME ZONE 'UTC')::date - %(days)s::integer
