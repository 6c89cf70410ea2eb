-- guard: for the rest of the transaction, nobody buries a task of these groups of ids, except this transaction
SELECT pg_advisory_xact_lock_shared(7247036, n) FROM unnest(%(groups)s::integer[]) AS n

-- guard_for_one: the same for one group, which costs half as much
SELECT pg_advisory_xact_lock_shared(7247036, %(group)s::integer)

-- guard_alone: as guard, and nobody else stores or copies a record of the other store meanwhile
SELECT pg_advisory_xact_lock(7247036, n) FROM unnest(%(groups)s::integer[]) AS n

-- end_if_idle: the server ends the transaction of a process that hangs
SELECT set_config('idle_in_transaction_session_timeout', '60s', true)

-- burial: a burial that refuses the record
SELECT FROM {buried} WHERE task_id = %(task_id)s
    AND (position(%(fingerprint)s::bytea IN fingerprints) > 0 OR %(date_done)s::timestamptz <= done_at)

-- mirror_task: store a record of the other store, unless it is buried or the stored state must stay
INSERT INTO {task} AS t ({task_columns}, changed) SELECT {task_values}, {task_marker}
WHERE NOT EXISTS ({burial})
ON CONFLICT (task_id) DO UPDATE SET {task_update}
WHERE {task_overwritable}

-- mirror_task_unless_moved: the same, unless the task was moved to the older table, and return whether the row was inserted
INSERT INTO {task} AS t ({task_columns}, changed) SELECT {task_values}, {task_marker}
WHERE NOT EXISTS ({burial}) AND NOT EXISTS (SELECT FROM {moved} WHERE id = hashtextextended(%(task_id)s, 0))
ON CONFLICT (task_id) DO UPDATE SET {task_update}
WHERE {task_overwritable}
RETURNING t.xmax = 0

-- settle_task: store a SUCCESS of the other store whatever is stored, unless it is buried
INSERT INTO {task} AS t ({task_columns}, changed) SELECT {task_values}, {task_marker}
WHERE NOT EXISTS ({burial})
ON CONFLICT (task_id) DO UPDATE SET {task_whole}

-- settle_task_unless_moved: the same, unless the task was moved to the older table, and return whether the row was inserted
INSERT INTO {task} AS t ({task_columns}, changed) SELECT {task_values}, {task_marker}
WHERE NOT EXISTS ({burial}) AND NOT EXISTS (SELECT FROM {moved} WHERE id = hashtextextended(%(task_id)s, 0))
ON CONFLICT (task_id) DO UPDATE SET {task_whole}
RETURNING t.xmax = 0

-- take_back_all: move tasks back, also those with a SUCCESS; if there is a live row, the row that readers see stays
WITH deleted AS (
    DELETE FROM {older} WHERE task_id = ANY(%(task_ids)s::text[]) AND drop_after IN ({days})
    RETURNING {task_columns}, drop_after
), unlisted AS (
    DELETE FROM {moved} AS m USING deleted AS t WHERE {same_moved} AND m.drop_after = t.drop_after
), noted AS (
{note_back}
)
INSERT INTO {task} AS t ({task_columns}, changed) SELECT {task_columns}, {marker} FROM deleted ORDER BY task_id
ON CONFLICT (task_id) DO UPDATE SET {task_whole} WHERE excluded.status = 'SUCCESS'

-- copy_tasks: store records of the other store where there is none, and others where the condition allows it
INSERT INTO {task} AS t ({task_columns}, changed)
SELECT {given_columns}, CASE WHEN date_done IS NOT NULL THEN (SELECT {marker}) END
FROM unnest({given_arrays}) AS given ({task_columns})
ON CONFLICT (task_id) DO UPDATE SET {task_whole}
WHERE {copy_condition}
RETURNING task_id

-- lock_mirrored_tasks: lock and read tasks
SELECT {task_columns} FROM {task} WHERE task_id = ANY(%(task_ids)s::text[]) ORDER BY task_id FOR UPDATE

-- take_tasks: delete tasks, keep what was counted of them, and return them
WITH deleted AS (
    DELETE FROM {task} WHERE task_id = ANY(%(task_ids)s::text[]) RETURNING {task_columns}, was_done
), noted AS (
{note_gone}
), marked AS (
{mark_earlier}
)
SELECT {task_columns} FROM deleted

-- take_older: delete tasks from the partitions of some days, and return them; they were counted as deleted when they were moved
WITH deleted AS (
    DELETE FROM {older} WHERE task_id = ANY(%(task_ids)s::text[]) AND drop_after IN ({days})
    RETURNING {task_columns}, drop_after
), unlisted AS (
    DELETE FROM {moved} AS m USING deleted AS t WHERE {same_moved} AND m.drop_after = t.drop_after
)
SELECT {task_columns} FROM deleted

-- count_older_roughly: count the moved tasks exactly if there are few, or else take the numbers of the catalog
WITH few AS (SELECT count(*) AS n FROM (SELECT FROM {moved} LIMIT 10001) AS t)
SELECT CASE WHEN few.n <= 10000 THEN few.n ELSE (
    SELECT greatest(few.n, sum(CASE WHEN s.n_live_tup > 0 THEN s.n_live_tup ELSE greatest(c.reltuples, 0)::bigint END))
    FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid LEFT JOIN pg_stat_all_tables AS s ON s.relid = c.oid
    WHERE i.inhparent = to_regclass(%(older)s)::oid
) END
FROM few

-- store_burials: store burials, in place of earlier ones of the same tasks
INSERT INTO {buried} (task_id, buried_at, done_at, fingerprints)
SELECT task_id, clock_timestamp(), done_at, fingerprints
FROM unnest(%(task_ids)s::text[], %(dates)s::timestamptz[], %(fingerprints)s::bytea[]) AS b (task_id, done_at, fingerprints)
ON CONFLICT (task_id) DO UPDATE SET buried_at = excluded.buried_at, done_at = excluded.done_at,
    fingerprints = excluded.fingerprints

-- burials_of: read the burials of tasks
SELECT task_id, buried_at, done_at, fingerprints FROM {buried} WHERE task_id = ANY(%(task_ids)s::text[])

-- burials: read the next burials in the order of their ids
SELECT task_id, buried_at, done_at, fingerprints FROM {buried}
WHERE task_id > %(after)s ORDER BY task_id LIMIT %(limit)s::integer

-- forget_burials: delete some burials from before a moment, or any
DELETE FROM {buried} WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM {buried} WHERE %(before)s::timestamptz IS NULL OR buried_at < %(before)s::timestamptz
    LIMIT %(limit)s::integer
)) AND (%(before)s::timestamptz IS NULL OR buried_at < %(before)s::timestamptz)
