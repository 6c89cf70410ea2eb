-- movable: rows that ended before a time, do not expire soon, and belong to no unfinished chord
t.date_done < %(done_before)s AND (t.expires_at IS NULL OR t.expires_at >= %(expires_from)s)
    AND (t.group_id IS NULL OR NOT EXISTS (
        SELECT FROM {chord} AS c WHERE c.group_id = t.group_id AND c.date_done IS NULL
    ))

-- batch_end: look at the next rows; find the last one, how many may be moved, and the days on which those may be dropped
SELECT max(date_done), (array_agg(task_id ORDER BY date_done DESC, task_id DESC))[1], count(*) FILTER (WHERE is_movable),
    array_agg(DISTINCT {day_of}) FILTER (WHERE is_movable)
FROM (
    -- a row that may not be moved is looked at once, and counts for the limit
    SELECT t.task_id, t.date_done, t.expires_at, {movable} AS is_movable FROM (
        SELECT task_id, date_done, expires_at, group_id FROM {task}
        WHERE date_done < %(done_before)s
            AND date_done >= %(after_done)s AND (date_done, task_id) > (%(after_done)s, %(after_id)s)
        ORDER BY date_done, task_id LIMIT %(limit)s
    ) AS t
) AS batch

-- move: move the rows of a batch, except those that somebody has locked and those with an id that was moved before
WITH deleted AS (
    DELETE FROM {task} WHERE ctid = ANY(ARRAY(
        SELECT t.ctid FROM {task} AS t
        WHERE {movable} AND t.date_done >= %(after_done)s AND (t.date_done, t.task_id) > (%(after_done)s, %(after_id)s)
            AND t.date_done <= %(last_done)s AND (t.date_done, t.task_id) <= (%(last_done)s, %(last_id)s)
            AND {day_of} = ANY(%(days)s::date[])
            AND NOT EXISTS (SELECT FROM {moved} AS m WHERE {same_moved})
        FOR UPDATE OF t SKIP LOCKED
    )) RETURNING {task_columns}, was_done
), {moved_away}

-- move_named: move rows by their ids, although an id with the same hash was moved before
WITH deleted AS (
    DELETE FROM {task} WHERE ctid = ANY(ARRAY(
        SELECT t.ctid FROM {task} AS t WHERE t.task_id = ANY(%(ids)s::text[]) AND {movable}
            AND {day_of} = ANY(%(days)s::date[])
        FOR UPDATE OF t SKIP LOCKED
    )) RETURNING {task_columns}, was_done
), {moved_away}

-- moved_away: the end of both: store the rows among the older ones, list their ids, and keep what was counted of them
older AS (
    INSERT INTO {older} ({task_columns}, drop_after) SELECT {task_columns}, {day_of} FROM deleted
), listed AS (
    {list_moved}
), noted AS (
{note_gone}
), marked AS (
{mark_earlier}
)
SELECT count(*) FROM deleted

-- list_again: list older rows of the tasks of a batch that are not listed; return how many
WITH listed AS (
    INSERT INTO {moved} (id, drop_after)
    SELECT hashtextextended(o.task_id, 0), o.drop_after FROM {older} AS o WHERE o.task_id IN (
        SELECT t.task_id FROM {task} AS t
        WHERE t.date_done < %(done_before)s
            AND t.date_done >= %(after_done)s AND (t.date_done, t.task_id) > (%(after_done)s, %(after_id)s)
        ORDER BY t.date_done, t.task_id LIMIT %(limit)s
    )
    ON CONFLICT DO NOTHING RETURNING 1
)
SELECT count(*) FROM listed

-- moved_before: find the rows of a batch with an id that may have been moved before, and the day that is listed for it
SELECT t.task_id, array_agg(m.drop_after) FROM {task} AS t JOIN {moved} AS m ON {same_moved}
WHERE {movable} AND t.date_done >= %(after_done)s AND (t.date_done, t.task_id) > (%(after_done)s, %(after_id)s)
    AND t.date_done <= %(last_done)s AND (t.date_done, t.task_id) <= (%(last_done)s, %(last_id)s)
GROUP BY t.task_id

-- lock_live: lock rows that may have been moved before
SELECT task_id FROM {task} WHERE task_id = ANY(%(ids)s::text[]) AND date_done IS NOT NULL FOR UPDATE SKIP LOCKED

-- give_way: delete rows whose task has a SUCCESS among the older ones; their hours are counted again without them
WITH deleted AS (
    DELETE FROM {task} WHERE task_id IN (
        SELECT task_id FROM {older}
        WHERE task_id = ANY(%(ids)s::text[]) AND drop_after = ANY(%(days)s::date[]) AND status = 'SUCCESS'
    ) RETURNING task_id, date_done, was_done
), marked AS (
    INSERT INTO {dirty} (start, is_hour) SELECT date_trunc('hour', done, 'UTC'), true
    FROM deleted, unnest(was_done || date_done) AS done WHERE done >= '1000-01-01' AND done < '9999-12-31'
)
SELECT task_id FROM deleted

-- replace_older: delete older rows that are not a SUCCESS, because their task ended again; it counts once
WITH deleted AS (
    DELETE FROM {older} WHERE task_id = ANY(%(ids)s::text[]) AND drop_after = ANY(%(days)s::date[])
        AND status <> 'SUCCESS' RETURNING {counted_columns}, drop_after
), unlisted AS (
    DELETE FROM {moved} AS m USING deleted AS t WHERE {same_moved} AND m.drop_after = t.drop_after
), noted AS (
{note_back}
)
SELECT count(*) FROM deleted

-- move_back: move the next rows of a partition back; a SUCCESS stays, otherwise the row that was stored later
WITH chosen AS MATERIALIZED (
    SELECT ctid, date_done, task_id FROM {partition}
    WHERE date_done >= %(after_done)s AND (date_done, task_id) > (%(after_done)s, %(after_id)s)
    ORDER BY date_done, task_id LIMIT %(limit)s FOR UPDATE
), deleted AS (
    DELETE FROM {partition} WHERE ctid = ANY(ARRAY(SELECT ctid FROM chosen)) RETURNING {task_columns}, drop_after
), unlisted AS (
    DELETE FROM {moved} AS m USING deleted AS t WHERE {same_moved} AND m.drop_after = t.drop_after
), noted AS (
{note_back}
), stored AS (
    INSERT INTO {task} AS t ({task_columns}, changed) SELECT {task_columns}, {marker} FROM deleted ORDER BY task_id
    ON CONFLICT (task_id) DO UPDATE SET {all_columns}, changed = {marker}, was_done = {was_done}
    WHERE t.status <> 'SUCCESS' AND excluded.status = 'SUCCESS'
)
SELECT count(*), max(date_done), (array_agg(task_id ORDER BY date_done DESC, task_id DESC))[1] FROM deleted

-- keep_back: move rows of a partition that must not be dropped to the partition that is never dropped
WITH deleted AS (
    DELETE FROM {partition} WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM {partition} WHERE {spared} LIMIT %(limit)s FOR UPDATE
    )) RETURNING {task_columns}, drop_after
), unlisted AS (
    DELETE FROM {moved} AS m USING deleted AS t WHERE {same_moved} AND m.drop_after = t.drop_after
), listed AS (
    INSERT INTO {moved} (id, drop_after) SELECT hashtextextended(task_id, 0), '9999-01-01' FROM deleted
    ON CONFLICT DO NOTHING
), kept AS (
    INSERT INTO {older} ({task_columns}, drop_after) SELECT {task_columns}, '9999-01-01' FROM deleted
)
SELECT count(*) FROM deleted

-- count_rows: count rows of a partition that meet a condition, up to a limit
SELECT count(*) FROM (SELECT FROM {partition} WHERE {wanted} LIMIT %(limit)s) AS found

-- lock_partition: let nobody change the rows of a partition until the end of the transaction
LOCK TABLE {partition} IN SHARE ROW EXCLUSIVE MODE

-- keep_state: let nobody begin to move rows back until the end of the transaction; return whether that is so
SELECT pg_try_advisory_xact_lock_shared(7247037, hashtext(to_regclass(%(older)s)::oid::text))

-- change_state: let nobody move rows to the older table until the end of the transaction
SELECT pg_advisory_xact_lock(7247037, hashtext(to_regclass(%(older)s)::oid::text))

-- lock_older_table: let nobody read or change the older table until the end of the transaction
LOCK TABLE {older} IN ACCESS EXCLUSIVE MODE

-- is_empty: return whether a partition has no row
SELECT NOT EXISTS (SELECT FROM {partition})

-- expired_kept: read the next rows that were kept back, and have expired
SELECT {task_select} FROM {partition} AS t WHERE expires_at < %(now)s AND task_id > %(after)s AND {wanted}
ORDER BY task_id LIMIT %(limit)s

-- delete_kept: delete rows that were kept back, and have expired
WITH deleted AS (
    DELETE FROM {partition} WHERE task_id = ANY(%(ids)s::text[]) AND expires_at < %(now)s AND {wanted}
    RETURNING task_id, drop_after
), unlisted AS (
    DELETE FROM {moved} AS m USING deleted AS t WHERE {same_moved} AND m.drop_after = t.drop_after
)
SELECT count(*) FROM deleted

-- unlist: delete the next entries of rows that were dropped; the entries are read in the order of their index
WITH chosen AS MATERIALIZED (
    SELECT id FROM {moved} WHERE id > %(after)s ORDER BY id LIMIT %(limit)s
), bounds AS (
    -- in the same snapshot as the entries: somebody may make a partition and list rows of it at any moment
    SELECT pg_get_expr(c.relpartbound, c.oid) AS text FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
    WHERE i.inhparent = to_regclass(%(older)s)
), ranges AS MATERIALIZED (
    SELECT coalesce(substring(text FROM 'FROM \(''(\d{4}-\d\d-\d\d)''\)')::date, '-infinity') AS start,
        coalesce(substring(text FROM 'TO \(''(\d{4}-\d\d-\d\d)''\)')::date, 'infinity') AS stop
    FROM bounds
), deleted AS (
    DELETE FROM {moved} WHERE id > %(after)s AND id <= (SELECT max(id) FROM chosen)
        AND drop_after < (now() AT TIME ZONE 'UTC')::date AND NOT EXISTS (
            SELECT FROM ranges WHERE drop_after >= ranges.start AND drop_after < ranges.stop
        )
    RETURNING 1
)
SELECT (SELECT max(id) FROM chosen), (SELECT count(*) FROM deleted)

-- partitions: find the partitions, and those that were detached to be dropped
SELECT c.relname, pg_get_expr(c.relpartbound, c.oid), coalesce((to_jsonb(i) ->> 'inhdetachpending')::boolean, false),
    i.inhrelid IS NOT NULL, obj_description(c.oid, 'pg_class') IS NOT DISTINCT FROM %(to_be_dropped)s,
    greatest(c.reltuples, s.n_live_tup, 0)::bigint,
    CASE WHEN %(with_sizes)s THEN coalesce(pg_total_relation_size(c.oid), 0) ELSE 0 END
FROM pg_class AS c
LEFT JOIN pg_inherits AS i ON i.inhrelid = c.oid AND i.inhparent = to_regclass(%(older)s)
LEFT JOIN pg_stat_all_tables AS s ON s.relid = c.oid
WHERE c.relkind = 'r' AND (i.inhrelid IS NOT NULL OR (
    c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass(%(task)s))
    AND obj_description(c.oid, 'pg_class') = %(to_be_dropped)s
))
ORDER BY 2, 1

-- has_table: return whether a name is in use
SELECT to_regclass(%(table)s) IS NOT NULL

-- today: the present day of the server, in UTC
SELECT (now() AT TIME ZONE 'UTC')::date

-- one_maker: let one process at a time make partitions
SELECT pg_advisory_xact_lock(7247036, hashtext(%(older)s::text::regclass::oid::text))

-- owner_of: return the owner of a table, and whether it is this user
SELECT quote_ident(pg_get_userbyid(relowner)), pg_get_userbyid(relowner) = current_user FROM pg_class
WHERE oid = to_regclass(%(table)s)

-- grantees: return who has which rights on the older table, to give them on a new partition
SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
    string_agg(DISTINCT a.privilege_type, ', ')
FROM pg_class AS c, aclexplode(c.relacl) AS a
WHERE c.oid = to_regclass(%(older)s) AND a.grantee <> c.relowner GROUP BY 1

-- behind: count the rows that could be moved now, up to a limit, and find the end of the first one; a bounded number of
-- the first and the last rows is looked at, because rows that may not be moved may be many
WITH first AS MATERIALIZED (
    SELECT date_done, expires_at, group_id FROM {task} WHERE date_done < %(done_before)s
    ORDER BY date_done LIMIT %(looked_at)s
), last AS MATERIALIZED (
    SELECT date_done, expires_at, group_id FROM {task}
    WHERE date_done < %(done_before)s AND date_done > (SELECT max(date_done) FROM first)
    ORDER BY date_done DESC LIMIT %(looked_at)s
)
SELECT count(*), min(date_done) FROM (
    SELECT t.date_done FROM (SELECT * FROM first UNION ALL SELECT * FROM last) AS t WHERE {movable}
    ORDER BY t.date_done LIMIT %(limit)s
) AS behind

-- rights: return the rights that this user lacks on a table
SELECT privilege FROM unnest(%(wanted)s::text[]) AS privilege
WHERE NOT has_table_privilege(to_regclass(%(table)s), privilege)

-- may_create: return the schema of the results, and whether this user may create tables in it
SELECT quote_ident(n.nspname), has_schema_privilege(n.oid, 'CREATE') FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(%(task)s)

-- may_own: return the owner of a table, and whether this user has the rights of the owner
SELECT quote_ident(pg_get_userbyid(c.relowner)), pg_has_role(c.relowner, 'USAGE') FROM pg_class AS c
WHERE c.oid = to_regclass(%(table)s)

-- owe_ids: note that entries of dropped rows must be deleted
INSERT INTO {job} AS j (name, started_at, done) VALUES (%(name)s, now(), 0)
ON CONFLICT (name) DO UPDATE SET started_at = now(), ended_at = NULL

-- owes_ids: return whether entries of dropped rows must be deleted
SELECT EXISTS (SELECT FROM {job} WHERE name = %(name)s AND ended_at IS NULL)

-- ids_are_gone: note that these entries were deleted
UPDATE {job} SET ended_at = now(), succeeded_at = now(), done = done + %(count)s WHERE name = %(name)s

-- holds_placed: how many holds were ever placed
SELECT count(*) FROM {hold}
