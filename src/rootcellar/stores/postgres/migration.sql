-- shared_values: read the values whose names begin with a text
SELECT name, value, version, changed_at FROM {shared}
WHERE name >= %(prefix)s AND starts_with(name, %(prefix)s) AND name <= %(prefix)s || U&'\+10FFFF'

-- share_value: store a value, whatever is stored
INSERT INTO {shared} AS s (name, value, version, changed_at) VALUES (%(name)s, %(value)s, 1, clock_timestamp())
ON CONFLICT (name) DO UPDATE SET value = excluded.value, version = s.version + 1, changed_at = excluded.changed_at

-- version_of: read the version of a value
SELECT version FROM {shared} WHERE name = %(name)s

-- share_first: store a value if there is none
INSERT INTO {shared} (name, value, version, changed_at) VALUES (%(name)s, %(value)s, 1, clock_timestamp())
ON CONFLICT DO NOTHING

-- share_next: store a value if the stored one has this version
UPDATE {shared} SET value = %(value)s, version = version + 1, changed_at = clock_timestamp()
WHERE name = %(name)s AND version = %(version)s

-- unshare_values: delete values
DELETE FROM {shared} WHERE name = ANY(%(names)s)

-- server_time: read the clock of the server
SELECT clock_timestamp()

-- in_order: for this transaction, the server reads the rows in the order of the index, and sorts none
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
    set_config('jit', 'off', true)

-- walk_tasks: read the next tasks in the order of their ids, and stop early if they are large
SELECT {task_columns} FROM (
    SELECT *, sum({stored_bytes}) OVER (ORDER BY task_id ROWS UNBOUNDED PRECEDING) - {stored_bytes} AS bytes_before
    FROM (SELECT {task_columns} FROM {task} WHERE task_id > %(after)s ORDER BY task_id LIMIT %(limit)s::integer) AS t
) AS page WHERE bytes_before < {most_bytes} ORDER BY task_id

-- walk_all_tasks: the same in the live table and the older one
SELECT {task_columns} FROM (
    SELECT *, sum({stored_bytes}) OVER (ORDER BY task_id ROWS UNBOUNDED PRECEDING) - {stored_bytes} AS bytes_before
    FROM (SELECT * FROM {all_rows} WHERE task_id > %(after)s ORDER BY task_id LIMIT %(limit)s::integer) AS t
) AS page WHERE bytes_before < {most_bytes} ORDER BY task_id

-- walk_groups: read the next groups in the order of their ids
SELECT taskset_id, result::text, result_exact, date_done, expires_at FROM {group}
WHERE taskset_id > %(after)s ORDER BY taskset_id LIMIT %(limit)s

-- copy_group: store a group if there is none
INSERT INTO {group} (taskset_id, result, result_exact, date_done, expires_at)
VALUES (%(taskset_id)s, %(result)s, %(result_exact)s, %(date_done)s, %(expires_at)s) ON CONFLICT DO NOTHING

-- copy_newer_group: store a group if there is none, or an earlier one
INSERT INTO {group} AS g (taskset_id, result, result_exact, date_done, expires_at)
VALUES (%(taskset_id)s, %(result)s, %(result_exact)s, %(date_done)s, %(expires_at)s)
ON CONFLICT (taskset_id) DO UPDATE SET result = excluded.result, result_exact = excluded.result_exact,
    date_done = excluded.date_done, expires_at = excluded.expires_at
WHERE g.date_done IS NULL OR g.date_done < excluded.date_done

-- count_roughly: count the tasks exactly if there are few, or else take the number of the catalog
WITH few AS (SELECT count(*) AS n FROM (SELECT FROM {task} LIMIT 10001) AS t)
SELECT CASE WHEN few.n <= 10000 THEN few.n ELSE (
    SELECT greatest(few.n, CASE WHEN s.n_live_tup > 0 THEN s.n_live_tup ELSE greatest(c.reltuples, 0)::bigint END)
    FROM pg_class AS c LEFT JOIN pg_stat_all_tables AS s ON s.relid = c.oid WHERE c.oid = to_regclass(%(task)s)::oid
) END
FROM few
