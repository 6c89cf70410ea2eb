-- present: read the time of the host
SELECT :now

-- lock_roll: return a row, because the transaction excludes all other writers
SELECT id FROM {roll}

-- read_roll: read what is counted
SELECT version, system_id, horizon, passed_at, recounted_at, minutes_from, hours_from, hours_until, days_from,
    days_until
FROM {roll} WHERE id = 1

-- save_roll: store what is counted
UPDATE {roll} SET version = :version, system_id = :system_id, horizon = :horizon, passed_at = :passed_at,
    recounted_at = :recounted_at, minutes_from = :minutes_from, hours_from = :hours_from,
    hours_until = :hours_until, days_from = :days_from, days_until = :days_until
WHERE id = 1

-- readable: a date that can be read; everything else is damage, and not counted
date_done < '9999-12-31' AND date_done GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9] *' AND julianday(date_done) IS NOT NULL

-- recent_minutes: find the minutes of rows that ended since then
SELECT DISTINCT substr(date_done, 1, 16) FROM {task} WHERE date_done >= :since AND {readable}

-- counted_minutes: find the minutes since then that have cells of rows that exist
SELECT DISTINCT start FROM {minute} WHERE start >= :since AND part = 2

-- dirty: read what must be counted again
SELECT id, start, is_hour FROM {dirty}

-- mark_dirty: remember what must be counted again
INSERT INTO {dirty} (start, is_hour) VALUES (:start, :is_hour)

-- clean: forget what was counted again
DELETE FROM {dirty} WHERE id IN (SELECT value FROM json_each(:ids))

-- gone_hours: find the hours of rows that were deleted
SELECT DISTINCT substr(start, 1, 13) FROM {gone}

-- gone_lines: read what was counted of deleted rows
SELECT id, is_hour, start, name, queue, status, failure_group, run_step, wait_step, n, retries, run_sum, run_max,
    wait_sum, wait_max, first_done, last_done, example
FROM {gone} WHERE start >= :since AND start < :until

-- drop_gone: delete what was added to the cells
DELETE FROM {gone} WHERE id IN (SELECT value FROM json_each(:ids))

-- timed: rows with their durations in seconds; the end of both statements that count rows
SELECT *, rootcellar_seconds(date_started, date_done) AS run, rootcellar_seconds(date_sent, date_started) AS wait

-- tallied: what is counted of timed rows
{name_key} AS name, {queue_key} AS queue, status, {group_key} AS failure_group,
    rootcellar_step(run) AS run_step, rootcellar_step(wait) AS wait_step,
    count(*) AS n, coalesce(sum(retries), 0) AS retries, sum(run) AS run_sum, max(run) AS run_max,
    sum(wait) AS wait_sum, max(wait) AS wait_max, min(date_done) AS first_done, max(date_done) AS last_done,
    max(CASE WHEN typeof(failure_group) = 'integer' THEN task_id END) AS example

-- lines: count the rows that ended in a time
SELECT substr(date_done, 1, :unit) AS start, {tallied}
FROM ({timed} FROM {task} WHERE date_done >= :since AND date_done < :until AND {readable} {selected}) AS t
GROUP BY 1, 2, 3, 4, 5, 6, 7

-- note_gone: store what was counted of rows that are then deleted: by the minute if they ended lately, by the hour otherwise
INSERT INTO {gone} (start, is_hour, name, queue, status, failure_group, run_step, wait_step, n, retries, run_sum,
    run_max, wait_sum, wait_max, first_done, last_done, example)
SELECT CASE WHEN is_hour THEN substr(date_done, 1, 13) || ':00' ELSE substr(date_done, 1, 16) END || ':00.000000',
    is_hour, {tallied}
FROM ({timed}, date_done < :recent AS is_hour FROM {task}
    WHERE {deleted} AND date_done >= '1000-01-01' AND {readable}
        -- what the command `check` stores for a moment
        AND substr(task_id, 1, 17) <> 'rootcellar-check-') AS t
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8

-- workers: find the workers of the rows that ended in a time
SELECT worker, max(date_done) FROM {task}
WHERE date_done >= :since AND date_done < :until AND worker IS NOT NULL GROUP BY worker

-- next_before: find the end of the last row that ended before
SELECT (SELECT date_done FROM {task} WHERE date_done < :moment AND date_done >= '1000-01-01' AND {readable}
    ORDER BY date_done DESC LIMIT 1)

-- next_after: find the end of the first row that ended at or after
SELECT (SELECT date_done FROM {task} WHERE date_done >= :moment AND {readable} ORDER BY date_done LIMIT 1)

-- drop_cells: delete the cells of a time
DELETE FROM {table} WHERE start >= :since AND start < :until AND part IN (:part, :part + 2)

-- drop_living_cells: delete all cells of rows that exist
DELETE FROM {table} WHERE part IN (0, 2)

-- forget_cells: delete the cells before a time
DELETE FROM {table} WHERE start < :until

-- insert_cell: store a cell
INSERT INTO {table} (start, part, name, queue, status, n, retries, run_n, run_sum, run_max, run_steps, wait_n,
    wait_sum, wait_max, wait_steps)
VALUES (:start, :part, :name, :queue, :status, :n, :retries, :run_n, :run_sum, :run_max,
    :run_steps, :wait_n, :wait_sum, :wait_max, :wait_steps)

-- cells: read cells with their steps
SELECT {keys}, n, retries, run_n, run_sum, run_max, wait_n, wait_sum, wait_max, run_steps, wait_steps FROM {table}
WHERE start >= :since AND start < :until AND part IN {parts} {selected}

-- sums: read the sums of cells
SELECT {keys}, sum(n), sum(retries), sum(run_n), sum(run_sum), max(run_max), sum(wait_n), sum(wait_sum), max(wait_max)
FROM {table} WHERE start >= :since AND start < :until AND part IN {parts} {selected}
GROUP BY 1, 2, 3, 4

-- last_hour: find the last hour that has cells, in a time
SELECT max(start) FROM {hour} WHERE start >= :since AND start < :until

-- insert_failure_hour: store the failures of a group and a task in an hour
INSERT INTO {failure_hour} (start, part, failure_group, name, n)
VALUES (:start, :part, :failure_group, :name, :n)

-- failure_hours: read the failures by hour
SELECT start, failure_group, name, sum(n) FROM {failure_hour}
WHERE start >= :since AND start < :until AND part IN {parts} {selected}
GROUP BY 1, 2, 3

-- failure_totals: read the failures of a time
SELECT min(start), max(start), failure_group, name, sum(n) FROM {failure_hour}
WHERE start >= :since AND start < :until AND part IN {parts} {selected}
GROUP BY 3, 4

-- failure_lines: count the failures that ended in a time
SELECT substr(date_done, 1, 13), failure_group, coalesce(name, ''), count(*) FROM {task}
WHERE date_done >= :since AND date_done < :until AND status IN ('FAILURE', 'REVOKED')
    AND typeof(failure_group) = 'integer' AND {readable} {selected}
GROUP BY 1, 2, 3

-- see_failure: store that a group of failures was seen
INSERT INTO {failure} AS f (failure_group, first_seen, last_seen, example)
VALUES (:failure_group, :first_seen, :last_seen, :example)
ON CONFLICT (failure_group) DO UPDATE SET first_seen = min(f.first_seen, excluded.first_seen),
    last_seen = max(f.last_seen, excluded.last_seen),
    example = CASE WHEN excluded.last_seen >= f.last_seen THEN excluded.example ELSE f.example END

-- known_failures: read groups of failures
SELECT failure_group, first_seen, last_seen, example, type, place, template, mark, marked_at, muted_until, note
FROM {failure} WHERE true {selected}

-- describe_failure: store what a group of failures is
UPDATE {failure} SET type = :type, place = :place, template = :template WHERE failure_group = :failure_group

-- mark_failure: store the mark of a group of failures
UPDATE {failure} SET mark = :mark, marked_at = :marked_at, muted_until = :muted_until, note = :note
WHERE failure_group = :failure_group

-- see_name: store that a name was seen
INSERT INTO {name} AS n (kind, name, last_seen) VALUES (:kind, :name, :last_seen)
ON CONFLICT (kind, name) DO UPDATE SET last_seen = excluded.last_seen WHERE n.last_seen < excluded.last_seen

-- forget_workers: delete the names of workers that were last seen before a time; old days name only tasks and queues
DELETE FROM {name} WHERE kind = 'worker' AND last_seen < :until

-- names: read the names of a kind
SELECT name, last_seen FROM {name} WHERE kind = :kind ORDER BY last_seen DESC, name

-- unfinished: count unfinished tasks, up to a limit
SELECT name, queue, status, count(*) FROM (
    SELECT coalesce(name, '') AS name, coalesce(queue, '') AS queue, status FROM {task}
    WHERE date_done IS NULL {selected} {window}
    ORDER BY coalesce(date_started, date_sent) DESC NULLS LAST, task_id LIMIT :limit
) AS t GROUP BY 1, 2, 3

-- durations: read the durations of rows
SELECT run, wait FROM (
    {timed} FROM {task} WHERE date_done >= :since AND date_done < :until {selected} LIMIT :limit
) AS t

-- slowest: find the rows of a time that ran longest
SELECT task_id, run FROM ({timed} FROM {task} WHERE date_done >= :since AND date_done < :until {selected}) AS t
WHERE run >= :least ORDER BY run DESC, task_id LIMIT :limit
