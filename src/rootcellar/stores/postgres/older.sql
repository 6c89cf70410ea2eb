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

-- copy_rights: give everybody the rights on a new table that they have on the live one
SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
    string_agg(DISTINCT a.privilege_type, ', ')
FROM pg_class AS c, aclexplode(c.relacl) AS a
WHERE c.oid = to_regclass(%(task)s) AND a.grantee <> c.relowner
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
