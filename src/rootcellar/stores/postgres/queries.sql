-- put_task: store a task's state, unless the stored state must stay
INSERT INTO {task} AS t ({task_columns}, changed) VALUES ({task_values}, {task_marker})
ON CONFLICT (task_id) DO UPDATE SET {task_update}
WHERE {task_overwritable}

-- put_task_and_report: the same, and return whether the row was inserted
INSERT INTO {task} AS t ({task_columns}, changed) VALUES ({task_values}, {task_marker})
ON CONFLICT (task_id) DO UPDATE SET {task_update}
WHERE {task_overwritable}
RETURNING t.xmax = 0

-- put_sent: store a task that was sent, unless it has a row
INSERT INTO {task} ({task_columns}, changed) VALUES ({task_values}, NULL) ON CONFLICT DO NOTHING

-- put_task_and_part: the same, and count the chord's part in the same transaction
WITH stored AS (
    INSERT INTO {task} AS t ({task_columns}, changed) VALUES ({task_values}, {task_marker})
    ON CONFLICT (task_id) DO UPDATE SET {task_update}
    WHERE {task_overwritable}
    RETURNING 1
), arrived AS (
    INSERT INTO {part} (group_id, task_id, group_index, status, result)
    SELECT %(part_group_id)s::text, %(part_task_id)s::text, %(part_index)s::integer, %(part_status)s::text, %(part_result)s::bytea
    WHERE NOT EXISTS (SELECT FROM {chord} WHERE group_id = %(part_group_id)s AND date_done IS NOT NULL)
    ON CONFLICT DO NOTHING
    RETURNING 1
)
{count_arrived}

-- count_part: count a chord's part whose task stores no result
WITH stored AS (SELECT 1 WHERE false), arrived AS (
    INSERT INTO {part} (group_id, task_id, group_index, status, result)
    SELECT %(part_group_id)s::text, %(part_task_id)s::text, %(part_index)s::integer, %(part_status)s::text, %(part_result)s::bytea
    WHERE NOT EXISTS (SELECT FROM {chord} WHERE group_id = %(part_group_id)s AND date_done IS NOT NULL)
    ON CONFLICT DO NOTHING
    RETURNING 1
)
{count_arrived}

-- count_arrived: the end of both: add the part to the chord's count, and claim the chord if that completes it
INSERT INTO {chord} AS c (group_id, counted, owner, expires_at)
VALUES (%(part_group_id)s, (SELECT count(*) FROM arrived), %(part_owner)s, %(part_expires_at)s::timestamptz)
ON CONFLICT (group_id) DO UPDATE SET
    counted = c.counted + excluded.counted,
    owner = excluded.owner,
    -- a chord without an expiry keeps none, and a part without one changes nothing
    expires_at = CASE WHEN c.expires_at < excluded.expires_at THEN excluded.expires_at ELSE c.expires_at END,
    claimed_by = CASE WHEN {claimable} THEN %(claimant)s::text ELSE c.claimed_by END,
    claimed_until = CASE WHEN {claimable}
        THEN clock_timestamp() + make_interval(secs => %(lease)s::double precision) ELSE c.claimed_until END
RETURNING c.size::bigint + c.extra, c.counted,
    coalesce(c.counted >= c.size::bigint + c.extra AND c.date_done IS NULL AND c.claimed_by = %(claimant)s, false),
    c.date_done IS NOT NULL,
    EXISTS (SELECT FROM stored)

-- claimable: the condition under which the claimant that counts a part may claim the chord; its own earlier claim does not prevent it
c.counted + excluded.counted >= c.size::bigint + c.extra AND c.date_done IS NULL
    AND (c.claimed_until IS NULL OR c.claimed_until < clock_timestamp() OR c.claimed_by = %(claimant)s)

-- get_task: read one task, as binary.py reads it
SELECT {task_columns} FROM {task} WHERE task_id = %(task_id)s

-- get_tasks: read many tasks, as binary.py reads them
SELECT {task_columns} FROM {task} WHERE task_id = ANY(%(task_ids)s)

-- delete_tasks: delete tasks, keep what was counted of them, and return how many there were
WITH deleted AS (
    DELETE FROM {task} WHERE task_id = ANY(%(task_ids)s) RETURNING {counted_columns}
), noted AS (
{note_gone}
), marked AS (
{mark_earlier}
)
SELECT count(*) FROM deleted

-- replace_task: replace the values of a task that has not changed
UPDATE {task} SET {task_replacement}
WHERE task_id = %(task_id)s AND status = %(old_status)s AND {task_still_the_same}

-- set_expiries: set other expiries of tasks that have not changed; a row that is being stored now gets its own
WITH wanted AS (
    SELECT * FROM unnest(
        %(task_ids)s::text[], %(old_statuses)s::text[], %(old_dates_done)s::timestamptz[],
        %(old_expiries)s::timestamptz[], %(expiries)s::timestamptz[]
    ) AS w (task_id, status, date_done, old_expires_at, expires_at)
), same AS (
    SELECT t.task_id, w.expires_at FROM wanted AS w JOIN {task} AS t ON t.task_id = w.task_id
    WHERE t.status = w.status AND t.date_done IS NOT DISTINCT FROM w.date_done
        AND t.expires_at IS NOT DISTINCT FROM w.old_expires_at
    FOR UPDATE OF t SKIP LOCKED
)
UPDATE {task} AS t SET expires_at = same.expires_at FROM same WHERE t.task_id = same.task_id

-- scan_tasks: read the next tasks in the order of their ids
SELECT {task_select} FROM {task} WHERE task_id > %(after)s ORDER BY task_id LIMIT %(limit)s

-- put_group: store a group
INSERT INTO {group} (taskset_id, result, result_exact, date_done, expires_at)
VALUES (%(taskset_id)s, %(result)s, %(result_exact)s, %(date_done)s, %(expires_at)s)
ON CONFLICT (taskset_id) DO UPDATE SET result = excluded.result, result_exact = excluded.result_exact,
    date_done = excluded.date_done, expires_at = excluded.expires_at

-- get_group: read a group
SELECT taskset_id, result::text, result_exact, date_done, expires_at FROM {group} WHERE taskset_id = %(group_id)s

-- delete_group: delete a group
DELETE FROM {group} WHERE taskset_id = %(group_id)s

-- begin_chord: store body and header, and delete the parts of an earlier run
WITH forgotten AS (DELETE FROM {part} WHERE group_id = %(group_id)s)
INSERT INTO {chord} (group_id, body, header, expires_at)
VALUES (%(group_id)s, %(body)s, %(header)s, %(expires_at)s)
ON CONFLICT (group_id) DO UPDATE SET size = NULL, extra = 0, counted = 0, body = excluded.body,
    header = excluded.header, claimed_by = NULL, claimed_until = NULL, date_created = now(), date_done = NULL,
    expires_at = excluded.expires_at

-- size_chord: set the number of parts
INSERT INTO {chord} (group_id, size) VALUES (%(group_id)s, %(size)s)
ON CONFLICT (group_id) DO UPDATE SET size = excluded.size

-- grow_chord: add to the number of parts; an idempotency key is stored among the parts, so that it counts once
WITH noted AS (
    INSERT INTO {part} (group_id, task_id, group_index, status)
    SELECT %(group_id)s::text, %(key)s::text, -2, '' WHERE %(key)s::text IS NOT NULL
    ON CONFLICT DO NOTHING
    RETURNING 1
)
INSERT INTO {chord} AS c (group_id, extra)
SELECT %(group_id)s::text, %(size)s::integer WHERE %(key)s::text IS NULL OR EXISTS (SELECT FROM noted)
ON CONFLICT (group_id) DO UPDATE SET extra = c.extra + excluded.extra

-- claim_chord: claim a complete chord that has no valid claim
UPDATE {chord} SET claimed_by = %(claimant)s, claimed_until = clock_timestamp() + make_interval(secs => %(lease)s::double precision)
WHERE group_id = %(group_id)s AND counted >= size::bigint + extra AND date_done IS NULL
    AND (claimed_until IS NULL OR claimed_until < clock_timestamp() OR claimed_by = %(claimant)s)

-- get_chord: read an unfinished chord
SELECT group_id, body, header, expires_at FROM {chord} WHERE group_id = %(group_id)s AND date_done IS NULL

-- chord_parts: read the parts in the order of the header; a part that was counted without a result has that of its task
SELECT p.task_id, nullif(p.group_index, -1), p.status, p.result, t.result::text, t.result_exact
FROM {part} AS p LEFT JOIN {task} AS t ON t.task_id = p.task_id AND p.result IS NULL
WHERE p.group_id = %(group_id)s AND p.group_index <> -2
ORDER BY p.group_index = -1, p.group_index, p.task_id

-- finish_chord: delete body and parts; the row stays, so that late parts are refused
WITH dropped AS (DELETE FROM {part} WHERE group_id = %(group_id)s)
UPDATE {chord} SET date_done = now(), body = NULL, header = NULL WHERE group_id = %(group_id)s

-- living_parts: find tasks that are parts; no index finds them
SELECT DISTINCT task_id FROM {part} WHERE task_id = ANY(%(task_ids)s) AND group_index <> -2

-- orphaned_chords: find chords that are complete, not finished, and without a valid claim
SELECT group_id FROM {chord}
WHERE date_done IS NULL AND counted >= size::bigint + extra
    AND (claimed_until IS NULL OR claimed_until < clock_timestamp())
    AND owner = %(owner)s
LIMIT %(limit)s

-- delete_due_tasks: delete the next tasks that have expired, keep what was counted of them, and return how many there were and the place of the last one
WITH due AS MATERIALIZED (
    SELECT ctid AS row_id, expires_at, task_id FROM {task} WHERE {due}
    ORDER BY expires_at LIMIT {limit} FOR UPDATE SKIP LOCKED
), deleted AS (
    DELETE FROM {task} WHERE ctid = ANY(ARRAY(SELECT row_id FROM due)) AND {expired} RETURNING {counted_columns}
), noted AS (
{note_gone}
), marked AS (
{mark_earlier}
)
SELECT (SELECT count(*) FROM deleted), (SELECT count(*) FROM due), 0, {last_expiry}, {last_id}, {last_row}

-- delete_wanted_tasks: the same, without the tasks that are spared: they are not locked, because a lock is a write
WITH due AS MATERIALIZED (
    SELECT ctid AS row_id, expires_at, task_id, {wanted} AS is_wanted FROM {task} WHERE {due}
    ORDER BY expires_at LIMIT {limit}
), held AS MATERIALIZED (
    SELECT ctid AS row_id FROM {task}
    WHERE ctid = ANY(ARRAY(SELECT row_id FROM due WHERE is_wanted)) AND {expired} AND {wanted}
    FOR UPDATE SKIP LOCKED
), deleted AS (
    DELETE FROM {task} WHERE ctid = ANY(ARRAY(SELECT row_id FROM held)) AND {expired} RETURNING {counted_columns}
), noted AS (
{note_gone}
), marked AS (
{mark_earlier}
)
SELECT (SELECT count(*) FROM deleted), (SELECT count(*) FROM due), (SELECT count(*) FROM due WHERE is_wanted IS NOT TRUE),
    {last_expiry}, {last_id}, {last_row}

-- delete_same_tasks: delete tasks whose expiry is still the same, keep what was counted of them, and return how many
WITH held AS MATERIALIZED (
    SELECT ctid AS row_id FROM {task} WHERE task_id = ANY(%(task_ids)s::text[]) AND {wanted}
        AND (task_id, expires_at) IN (SELECT * FROM unnest(%(task_ids)s::text[], %(expiries)s::timestamptz[]))
    FOR UPDATE SKIP LOCKED
), deleted AS (
    DELETE FROM {task} WHERE ctid = ANY(ARRAY(SELECT row_id FROM held)) RETURNING {counted_columns}
), noted AS (
{note_gone}
), marked AS (
{mark_earlier}
)
SELECT count(*) FROM deleted

-- replica_lag: the seconds that the slowest replica is behind; one that stands still has an old time, so each 16 MB of WAL counts as a second, too
SELECT max(greatest(extract(epoch FROM replay_lag)::double precision,
    pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::double precision / 16777216))
FROM pg_stat_replication WHERE state = 'streaming'

-- count_expired_groups: count the groups that have expired
SELECT count(*) FROM {group} WHERE expires_at < %(now)s

-- delete_expired_groups: delete some groups that have expired
DELETE FROM {group} WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM {group} WHERE expires_at < %(now)s LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)) AND expires_at < %(now)s

-- count_expired_chords: count the chords that were finished a day ago, or have expired
SELECT count(*) FROM {chord} WHERE expires_at < %(now)s OR date_done < %(yesterday)s

-- delete_expired_chords: delete some chords that were finished a day ago, or have expired, with not too many parts, and return how many chords there were
WITH due AS MATERIALIZED (
    SELECT ctid AS row_id, CASE WHEN date_done IS NULL THEN counted ELSE 0 END AS parts FROM {chord}
    WHERE expires_at < %(now)s OR date_done < %(yesterday)s LIMIT %(limit)s
), counted AS (
    SELECT row_id, sum(parts) OVER (ORDER BY row_id ROWS UNBOUNDED PRECEDING) - parts AS earlier FROM due
), held AS MATERIALIZED (
    SELECT ctid AS row_id FROM {chord}
    WHERE ctid = ANY(ARRAY(SELECT row_id FROM counted WHERE earlier < %(parts)s))
        AND (expires_at < %(now)s OR date_done < %(yesterday)s)
    FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM {chord} WHERE ctid = ANY(ARRAY(SELECT row_id FROM held)) RETURNING group_id
), dropped AS (
    DELETE FROM {part} WHERE group_id IN (SELECT group_id FROM gone)
)
SELECT count(*) FROM gone

-- query_tasks: the newest tasks that match, unfinished ones first
SELECT {task_select} FROM {task}
WHERE (%(states)s::text[] IS NULL OR status = ANY(%(states)s))
    AND (%(names)s::text[] IS NULL OR name LIKE ANY(%(names)s))
    AND (%(queues)s::text[] IS NULL OR queue LIKE ANY(%(queues)s))
    AND (%(workers)s::text[] IS NULL OR worker LIKE ANY(%(workers)s))
    AND (%(ids)s::text IS NULL OR task_id LIKE %(ids)s)
    AND (%(since)s::timestamptz IS NULL OR coalesce(date_done, date_started, date_sent) >= %(since)s)
    AND (%(until)s::timestamptz IS NULL OR coalesce(date_done, date_started, date_sent) < %(until)s)
ORDER BY date_done DESC NULLS FIRST, date_started DESC NULLS FIRST, date_sent DESC NULLS FIRST
LIMIT %(limit)s

-- begin_batch: try to get the lock for moving tasks; the server ends the transaction of a process that hangs
SELECT pg_try_advisory_xact_lock(7247035, hashtext((
    -- by name, because a table that was copied or restored has another number
    SELECT n.nspname || '.' || c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = %(task)s::text::regclass
))), idle_timeout, synced
FROM (SELECT set_config('idle_in_transaction_session_timeout', '60s', true) AS idle_timeout,
    -- a record that leaves the journal must be on the disk here
    set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'
        ELSE current_setting('synchronous_commit') END, true) AS synced) AS settings

-- unfinished_by_state: how many tasks have not ended
SELECT status, count(*) FROM {task} WHERE date_done IS NULL GROUP BY status

-- oldest_task: when the oldest result was stored, without those that ended at an unknown time
SELECT min(date_done) FROM {task} WHERE date_done > timestamptz '1970-01-02 00:00:00+00'

-- open_chords: how many chords are not finished, and how many of them are complete without a valid claim
SELECT count(*), count(*) FILTER (WHERE counted >= size::bigint + extra
    AND (claimed_until IS NULL OR claimed_until < clock_timestamp()))
FROM {chord} WHERE date_done IS NULL AND body IS NOT NULL

-- table_sizes: the size of each table with its partitions, from the catalog
WITH named AS (SELECT to_regclass(name)::oid AS oid FROM unnest(%(tables)s::text[]) AS name),
    pieces AS (
        SELECT oid AS whole, oid AS piece FROM named
        UNION ALL SELECT i.inhparent, i.inhrelid FROM pg_inherits AS i JOIN named ON named.oid = i.inhparent
    )
SELECT w.relname, sum(CASE WHEN s.n_live_tup > 0 THEN s.n_live_tup ELSE greatest(c.reltuples, 0)::bigint END),
    sum(pg_table_size(c.oid)), sum(pg_indexes_size(c.oid)), sum(coalesce(s.n_dead_tup, 0))
FROM pieces JOIN pg_class AS w ON w.oid = pieces.whole JOIN pg_class AS c ON c.oid = pieces.piece
    LEFT JOIN pg_stat_all_tables AS s ON s.relid = c.oid
GROUP BY w.relname ORDER BY w.relname

-- oldest_finished: the earliest end of a task
SELECT min(date_done) FROM {task}

-- oldest_unfinished: the earliest start, or else sending, of a task that has not ended
SELECT min(coalesce(date_started, date_sent)) FROM {task} WHERE date_done IS NULL

-- task_names: each name of a task once; the index is asked for the next name, as often as there are names
WITH RECURSIVE names (name) AS (
    SELECT min(name) FROM {task}
    UNION ALL
    SELECT (SELECT min(t.name) FROM {task} AS t WHERE t.name > names.name) FROM names WHERE names.name IS NOT NULL
)
SELECT name FROM names WHERE name IS NOT NULL LIMIT %(limit)s

-- place_hold: store a hold, and read it: without a right on the sequence, its number is not known otherwise
INSERT INTO {hold} (filter, reason, placed_by, placed_at) VALUES (%(filter)s, %(reason)s, %(placed_by)s, %(placed_at)s)
RETURNING {hold_columns}

-- one_hold: read a hold
SELECT {hold_columns} FROM {hold} WHERE id = %(id)s

-- release_hold: release a hold that is active
UPDATE {hold} SET released_by = %(released_by)s, released_at = %(released_at)s WHERE id = %(id)s AND released_at IS NULL

-- holds: read every hold
SELECT {hold_columns} FROM {hold} ORDER BY id

-- holds_placed: how many holds were ever placed
SELECT count(*) FROM {hold}

-- lock_spared: lock tasks that are to be deleted, and say of each whether it stays
SELECT task_id, ({spared}) IS TRUE FROM {task} WHERE task_id = ANY(%(task_ids)s) FOR UPDATE
