-- find_older: return what was noted of the older table; no row if there is none
SELECT obj_description(c.oid, 'pg_class') FROM pg_class AS c WHERE c.oid = to_regclass(%(older)s)

-- columns_of_task: return the columns of the live table, quoted, in their order
SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
WHERE attrelid = to_regclass(%(task)s) AND attnum > 0 AND NOT attisdropped

-- create_older: create the older table without a partition; a row without one is refused, so the mover creates it first
CREATE TABLE {older} (
    LIKE {task},
    -- the first day on which the row may be deleted; 9999-01-01 for never
    drop_after date NOT NULL,
    PRIMARY KEY (task_id, drop_after)
) PARTITION BY RANGE (drop_after);
CREATE INDEX {older_date_done_index} ON {older} (date_done);
CREATE INDEX {older_name_index} ON {older} (name, date_done);

-- create_moved: create the index of moved ids: a number for each id, because it takes half the space of the id
CREATE TABLE {moved} (
    id          bigint NOT NULL,
    drop_after  date NOT NULL,
    PRIMARY KEY (id, drop_after)
);

-- create_all: create the view of both tables, with the columns of the live one
CREATE VIEW {all} AS SELECT {columns} FROM {task} UNION ALL SELECT {columns} FROM {older};

-- replace_all: create the view anew with more columns at its end; rights on it stay
CREATE OR REPLACE VIEW {all} AS SELECT {columns} FROM {task} UNION ALL SELECT {columns} FROM {older}

-- drop_all: delete the view
DROP VIEW IF EXISTS {all}

-- note_creation: note in a script when it created the older table, because the first row is moved a minute later
DO $rootcellar$ BEGIN
    EXECUTE format('COMMENT ON TABLE %s IS %L', {older_literal}, json_build_object(
        'enabled_at', to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'),
        'window', {window}, 'is_disabling', false
    ));
END $rootcellar$;

-- copy_rights: give everybody the rights on a new table that they have on the live one
SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
    string_agg(DISTINCT a.privilege_type, ', ')
-- the owner has all rights on the live table, and is perhaps not who creates the new one
FROM pg_class AS c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) AS a
WHERE c.oid = to_regclass(%(task)s) AND (a.grantee = 0 OR pg_get_userbyid(a.grantee) <> current_user)
    AND a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
GROUP BY 1

-- drop_older: delete the view and both tables
DROP VIEW IF EXISTS {all};
DROP TABLE IF EXISTS {older};
DROP TABLE IF EXISTS {moved};

-- count_older: count the rows of the older table
SELECT count(*) FROM {older}

-- day_of: the first day on which a row may be deleted: the day after it expires, or a day that never comes
CASE WHEN expires_at < '9998-12-30' THEN greatest((expires_at AT TIME ZONE 'UTC')::date + 1, '0001-01-01') ELSE '9999-01-01'::date END

-- same_moved: that an entry `m` of the index of moved ids is of the row `t`
m.id = hashtextextended(t.task_id, 0)

-- list_moved: store the entries of the rows `deleted`, which are moved to the older table
INSERT INTO {moved} (id, drop_after)
SELECT hashtextextended(task_id, 0), {day_of} FROM deleted ON CONFLICT DO NOTHING

-- note_back: take back what was counted of the rows `deleted` when they were moved, because they become live rows again
INSERT INTO {gone} (start, is_hour, name, queue, status, failure_group, run_step, wait_step, n, retries, run_sum,
    run_max, wait_sum, wait_max, first_done, last_done, example)
SELECT start, is_hour, name, queue, status, failure_group, run_step, wait_step, -n, -retries, -run_sum,
    run_max, -wait_sum, wait_max, first_done, last_done, example
FROM (
    SELECT date_trunc(CASE WHEN is_hour THEN 'hour' ELSE 'minute' END, date_done, 'UTC') AS start, is_hour, {tallied}
    FROM ({timed}, date_done < now() - interval '5 hours' AS is_hour FROM deleted
        WHERE date_done >= '1000-01-01' AND date_done < '9999-12-31'
            AND left(task_id, 17) <> 'rootcellar-check-') AS t
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
) AS lines

-- all_rows: the rows of both tables, in place of the live table in statements that only read
(SELECT {task_columns} FROM {task} UNION ALL SELECT {task_columns} FROM {older}) AS t

-- get_task_or_moved: read one task, and the days under which it is listed as moved; a UNION ALL takes longer to execute
SELECT {task_columns}, drop_after
FROM (SELECT {task_columns} FROM {task} WHERE task_id = %(task_id)s) AS t
FULL JOIN (SELECT drop_after FROM {moved} WHERE id = hashtextextended(%(task_id)s, 0)) AS m ON true

-- days_of_one: find the days under which a task is listed as moved
SELECT drop_after FROM {moved} WHERE id = hashtextextended(%(task_id)s, 0)

-- get_tasks_or_moved: the same of many tasks
SELECT {task_columns}, NULL::date FROM {task} WHERE task_id = ANY(%(task_ids)s)
UNION ALL
SELECT u.task_id, {no_more_columns}, m.drop_after
FROM unnest(%(task_ids)s::text[]) AS u (task_id) JOIN {moved} AS m ON m.id = hashtextextended(u.task_id, 0)

-- moved_days: find the days under which tasks are listed as moved
SELECT u.task_id, m.drop_after
FROM unnest(%(task_ids)s::text[]) AS u (task_id) JOIN {moved} AS m ON m.id = hashtextextended(u.task_id, 0)

-- get_older: read tasks from the partitions of some days; the days are in the text, so that the server locks no other
SELECT {task_columns} FROM {older} WHERE task_id = ANY(%(task_ids)s::text[]) AND drop_after IN ({days})

-- get_older_task: read one task from the partition of a day
SELECT {task_columns} FROM {older} WHERE task_id = %(task_id)s AND drop_after = %(day)s

-- get_older_task_of_weeks: the same; because the cast depends on a setting, the server plans this once for all these weeks,
-- and chooses the partition when it executes the plan
SELECT {task_columns} FROM {older} WHERE task_id = %(task_id)s
AND drop_after >= '{start}' AND drop_after < '{end}' AND drop_after = (%(day)s::text)::date

-- delete_older: delete tasks from the partitions of some days; they were counted as deleted when they were moved
WITH deleted AS (
    DELETE FROM {older} WHERE task_id = ANY(%(task_ids)s::text[]) AND drop_after IN ({days})
    RETURNING task_id, drop_after
), unlisted AS (
    DELETE FROM {moved} AS m USING deleted AS t WHERE {same_moved} AND m.drop_after = t.drop_after
)
SELECT task_id, drop_after FROM deleted

-- replace_older: replace the values of a task that has not changed
UPDATE {older} SET {task_replacement}
WHERE task_id = %(task_id)s AND drop_after IN ({days}) AND status = %(old_status)s AND {task_still_the_same}

-- take_back: move tasks back that are stored again, except those with a SUCCESS; a live row stays
WITH deleted AS (
    DELETE FROM {older} WHERE task_id = ANY(%(task_ids)s::text[]) AND drop_after IN ({days}) AND status <> 'SUCCESS'
    RETURNING {task_columns}, drop_after
), unlisted AS (
    DELETE FROM {moved} AS m USING deleted AS t WHERE {same_moved} AND m.drop_after = t.drop_after
), noted AS (
{note_back}
)
INSERT INTO {task} ({task_columns}, changed) SELECT {task_columns}, {marker} FROM deleted ORDER BY task_id
ON CONFLICT (task_id) DO NOTHING

-- succeeded: find the tasks that have a SUCCESS in the partitions of some days
SELECT task_id FROM {older}
WHERE task_id = ANY(%(task_ids)s::text[]) AND drop_after IN ({days}) AND status = 'SUCCESS'

-- put_task_unless_moved: store a task's state, unless the stored state must stay, or the task was moved
INSERT INTO {task} AS t ({task_columns}, changed) SELECT {task_values}, {task_marker}
WHERE NOT EXISTS (SELECT FROM {moved} WHERE id = hashtextextended(%(task_id)s, 0))
ON CONFLICT (task_id) DO UPDATE SET {task_update}
WHERE {task_overwritable}
-- not whether the row was inserted: the task may be moved at the same moment
RETURNING false

-- put_sent_unless_moved: store a task that was sent, unless it has a row
INSERT INTO {task} ({task_columns}, changed) SELECT {task_values}, NULL
WHERE NOT EXISTS (SELECT FROM {moved} WHERE id = hashtextextended(%(task_id)s, 0))
ON CONFLICT DO NOTHING

-- put_task_unless_moved_and_part: the same as put_task_unless_moved, and count the chord's part in the same transaction
WITH stored AS (
    INSERT INTO {task} AS t ({task_columns}, changed) SELECT {task_values}, {task_marker}
    WHERE NOT EXISTS (SELECT FROM {moved} WHERE id = hashtextextended(%(task_id)s, 0))
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

-- lock_older: lock and read older rows; one that is locked is being changed, and stays
SELECT {task_select} FROM {older} WHERE task_id = ANY(%(task_ids)s) AND drop_after IN ({days}) FOR UPDATE SKIP LOCKED

-- spared_older: lock older rows that are to be deleted, and find those that stay
SELECT task_id FROM (
    SELECT *, ({spared}) IS TRUE AS is_spared FROM {older}
    WHERE task_id = ANY(%(task_ids)s) AND drop_after IN ({days}) FOR UPDATE
) AS t WHERE is_spared

-- set_older_expiries: set other expiries of older tasks that have not changed; the server moves rows to other partitions
WITH wanted AS (
    SELECT * FROM unnest(
        %(task_ids)s::text[], %(old_statuses)s::text[], %(old_dates_done)s::timestamptz[],
        %(old_expiries)s::timestamptz[], %(expiries)s::timestamptz[]
    ) AS w (task_id, status, date_done, old_expires_at, expires_at)
), same AS (
    SELECT t.task_id, t.drop_after AS old_day, w.expires_at FROM wanted AS w JOIN {older} AS t ON t.task_id = w.task_id
    WHERE t.drop_after IN ({days}) AND t.status = w.status AND t.date_done IS NOT DISTINCT FROM w.date_done
        AND t.expires_at IS NOT DISTINCT FROM w.old_expires_at
    FOR UPDATE OF t SKIP LOCKED
), days AS (
    SELECT task_id, old_day, expires_at, {day_of} AS new_day FROM same
), unlisted AS (
    DELETE FROM {moved} AS m USING days AS t WHERE {same_moved} AND m.drop_after = t.old_day AND t.new_day <> t.old_day
), listed AS (
    INSERT INTO {moved} (id, drop_after)
    SELECT hashtextextended(task_id, 0), new_day FROM days WHERE new_day <> old_day ON CONFLICT DO NOTHING
)
UPDATE {older} AS t SET expires_at = days.expires_at, drop_after = days.new_day FROM days
WHERE t.task_id = days.task_id AND t.drop_after = days.old_day AND t.drop_after IN ({days})

-- in_both: find the tasks that have a row in the live table and are listed as moved
SELECT DISTINCT t.task_id FROM {task} AS t JOIN {moved} AS m ON {same_moved}
WHERE t.task_id = ANY(%(task_ids)s::text[])

-- scan_all: read the next tasks of both tables in the order of their ids
SELECT {task_select}, is_moved FROM (
    SELECT {task_columns}, false AS is_moved FROM {task} UNION ALL SELECT {task_columns}, true FROM {older}
) AS t WHERE task_id > %(after)s ORDER BY task_id LIMIT %(limit)s

-- oldest_older: the earliest end of a task in the older table
SELECT min(date_done) FROM {older}

-- older_names: each name of a task in the older table once
WITH RECURSIVE names (name) AS (
    SELECT min(name) FROM {older}
    UNION ALL
    SELECT (SELECT min(t.name) FROM {older} AS t WHERE t.name > names.name) FROM names WHERE names.name IS NOT NULL
)
SELECT name FROM names WHERE name IS NOT NULL LIMIT %(limit)s

-- read_all_or_moved: as read_all, and the ids of the tasks that were moved while a listener waits for them
SELECT task_id AS id, w.kind = 1 AS is_id_only, {sent_columns} FROM {waiter} AS w JOIN {task} USING (task_id)
WHERE w.listener = %(listener)s AND (w.kind = 2 OR date_done IS NOT NULL)
UNION ALL
SELECT w.task_id, NULL, {no_columns} FROM {waiter} AS w JOIN {moved} AS m ON m.id = hashtextextended(w.task_id, 0)
WHERE w.listener = %(listener)s

-- read_some_or_moved: the same, of these tasks only
SELECT task_id AS id, w.kind = 1 AS is_id_only, {sent_columns} FROM {waiter} AS w JOIN {task} USING (task_id)
WHERE w.listener = %(listener)s AND (w.kind = 2 OR date_done IS NOT NULL) AND task_id = ANY(%(task_ids)s::text[])
UNION ALL
SELECT w.task_id, NULL, {no_columns} FROM {waiter} AS w JOIN {moved} AS m ON m.id = hashtextextended(w.task_id, 0)
WHERE w.listener = %(listener)s AND w.task_id = ANY(%(task_ids)s::text[])
