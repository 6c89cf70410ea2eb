-- present: read the time
SELECT UTC_TIMESTAMP(6)

-- lock_roll: exclude other passes; an error if there is one
SELECT id FROM {roll} WHERE id = 1 FOR UPDATE NOWAIT

-- read_roll: read what is counted
SELECT version, system_id, horizon, passed_at, recounted_at, minutes_from, hours_from, hours_until, days_from,
    days_until
FROM {roll} WHERE id = 1

-- save_roll: store what is counted
UPDATE {roll} SET version = %(version)s, system_id = %(system_id)s, horizon = %(horizon)s, passed_at = %(passed_at)s,
    recounted_at = %(recounted_at)s, minutes_from = %(minutes_from)s, hours_from = %(hours_from)s,
    hours_until = %(hours_until)s, days_from = %(days_from)s, days_until = %(days_until)s
WHERE id = 1

-- recent_minutes: find the minutes of rows that ended since then
SELECT DISTINCT LEFT(CAST(date_done AS CHAR), 16) FROM {task} FORCE INDEX ({task_date_done_index})
    WHERE date_done >= %(since)s AND date_done < '9999-12-31'

-- counted_minutes: find the minutes since then that have cells of rows that exist
SELECT DISTINCT start FROM {minute} WHERE start >= %(since)s AND part = 2

-- dirty: read what must be counted again
SELECT id, start, is_hour FROM {dirty}

-- mark_dirty: remember what must be counted again
INSERT INTO {dirty} (start, is_hour) VALUES (%(start)s, %(is_hour)s)

-- clean: forget what was counted again; each row is found by its key, so that no gap is locked and no worker waits
DELETE d FROM ({ids}) AS wanted STRAIGHT_JOIN {dirty} AS d FORCE INDEX (PRIMARY) ON d.id = wanted.id

-- gone_hours: find the hours of rows that were deleted
SELECT DISTINCT LEFT(CAST(start AS CHAR), 13) FROM {gone}

-- gone_lines: read what was counted of deleted rows
SELECT id, is_hour, start, name, queue, status, failure_group, run_step, wait_step, n, retries, run_sum, run_max,
    wait_sum, wait_max, first_done, last_done, example
FROM {gone} WHERE start >= %(since)s AND start < %(until)s

-- drop_gone: delete what was added to the cells, in the same way
DELETE g FROM ({ids}) AS wanted STRAIGHT_JOIN {gone} AS g FORCE INDEX (PRIMARY) ON g.id = wanted.id

-- timed: rows with their durations in seconds; the end of both statements that count rows
SELECT task_id, status, date_done, name, queue, retries, failure_group,
    IF(date_done >= date_started, TIMESTAMPDIFF(MICROSECOND, date_started, date_done) / 1e6, NULL) AS run,
    IF(date_started >= date_sent, TIMESTAMPDIFF(MICROSECOND, date_sent, date_started) / 1e6, NULL) AS wait

-- tallied: what is counted of timed rows
{name_key} AS name, {queue_key} AS queue, status, {group_key} AS failure_group,
    CAST(LEAST(80, GREATEST(0, FLOOR(3 * LOG2(GREATEST(run, 0.001e0) / 0.001e0)))) AS SIGNED) AS run_step,
    CAST(LEAST(80, GREATEST(0, FLOOR(3 * LOG2(GREATEST(wait, 0.001e0) / 0.001e0)))) AS SIGNED) AS wait_step,
    count(*) AS n, coalesce(sum(retries), 0) AS retries, sum(run) AS run_sum, max(run) AS run_max,
    sum(wait) AS wait_sum, max(wait) AS wait_max, min(date_done) AS first_done, max(date_done) AS last_done,
    max(IF(failure_group IS NOT NULL, task_id, NULL)) AS example

-- lines: count the rows that ended in a time
SELECT LEFT(CAST(date_done AS CHAR), %(unit)s) AS start, {tallied}
FROM ({timed} FROM {task} FORCE INDEX ({task_date_done_index}, {task_name_index})
    WHERE date_done >= %(since)s AND date_done < %(until)s {selected}) AS t
GROUP BY 1, 2, 3, 4, 5, 6, 7

-- note_gone: store what was counted of rows that are then deleted: by the minute if they ended lately, by the hour otherwise
INSERT INTO {gone} (start, is_hour, name, queue, status, failure_group, run_step, wait_step, n, retries, run_sum,
    run_max, wait_sum, wait_max, first_done, last_done, example)
SELECT CONCAT(LEFT(CAST(date_done AS CHAR), IF(is_hour, 13, 16)), IF(is_hour, ':00:00', ':00')), is_hour, {tallied}
FROM ({timed}, date_done < UTC_TIMESTAMP(6) - INTERVAL 5 HOUR AS is_hour FROM {task} FORCE INDEX (PRIMARY)
    WHERE task_id IN %(ids)s AND date_done >= '1000-01-01' AND date_done < '9999-12-31'
        -- what the command `check` stores for a moment
        AND LEFT(task_id, 17) <> 'rootcellar-check-') AS t
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8

-- workers: find the workers of the rows that ended in a time
SELECT worker, max(date_done) FROM {task} FORCE INDEX ({task_date_done_index})
WHERE date_done >= %(since)s AND date_done < %(until)s AND worker IS NOT NULL GROUP BY worker

-- next_before: find the end of the last row that ended before
SELECT max(date_done) FROM {task} FORCE INDEX ({task_date_done_index})
    WHERE date_done < %(moment)s AND date_done >= '1000-01-01'

-- next_after: find the end of the first row that ended at or after
SELECT min(date_done) FROM {task} FORCE INDEX ({task_date_done_index})
    WHERE date_done >= %(moment)s AND date_done < '9999-12-31'

-- drop_cells: delete the cells of a time
DELETE FROM {table} WHERE start >= %(since)s AND start < %(until)s AND part IN (%(part)s, %(part)s + 2)

-- drop_living_cells: delete all cells of rows that exist
DELETE FROM {table} WHERE part IN (0, 2)

-- forget_cells: delete the cells before a time
DELETE FROM {table} WHERE start < %(until)s

-- insert_cell: store a cell
INSERT INTO {table} (start, part, name, queue, status, n, retries, run_n, run_sum, run_max, run_steps, wait_n,
    wait_sum, wait_max, wait_steps)
VALUES (%(start)s, %(part)s, %(name)s, %(queue)s, %(status)s, %(n)s, %(retries)s, %(run_n)s, %(run_sum)s, %(run_max)s,
    %(run_steps)s, %(wait_n)s, %(wait_sum)s, %(wait_max)s, %(wait_steps)s)

-- cells: read cells with their steps
SELECT {keys}, n, retries, run_n, run_sum, run_max, wait_n, wait_sum, wait_max, run_steps, wait_steps FROM {table}
WHERE start >= %(since)s AND start < %(until)s AND part IN {parts} {selected}

-- sums: read the sums of cells
SELECT {keys}, sum(n), sum(retries), sum(run_n), sum(run_sum), max(run_max), sum(wait_n), sum(wait_sum), max(wait_max)
FROM {table} WHERE start >= %(since)s AND start < %(until)s AND part IN {parts} {selected}
GROUP BY 1, 2, 3, 4

-- last_hour: find the last hour that has cells, in a time
SELECT max(start) FROM {hour} WHERE start >= %(since)s AND start < %(until)s

-- insert_failure_hour: store the failures of a group and a task in an hour
INSERT INTO {failure_hour} (start, part, failure_group, name, n)
VALUES (%(start)s, %(part)s, %(failure_group)s, %(name)s, %(n)s)

-- failure_hours: read the failures by hour
SELECT start, failure_group, name, sum(n) FROM {failure_hour}
WHERE start >= %(since)s AND start < %(until)s AND part IN {parts} {selected}
GROUP BY 1, 2, 3

-- failure_totals: read the failures of a time
SELECT min(start), max(start), failure_group, name, sum(n) FROM {failure_hour}
WHERE start >= %(since)s AND start < %(until)s AND part IN {parts} {selected}
GROUP BY 3, 4

-- failure_lines: count the failures that ended in a time
SELECT LEFT(CAST(date_done AS CHAR), 13), failure_group, coalesce(name, ''), count(*)
FROM {task} FORCE INDEX ({task_date_done_index})
WHERE date_done >= %(since)s AND date_done < %(until)s AND status IN ('FAILURE', 'REVOKED')
    AND failure_group IS NOT NULL {selected}
GROUP BY 1, 2, 3

-- see_failure: store that a group of failures was seen
INSERT INTO {failure} (failure_group, first_seen, last_seen, example)
VALUES (%(failure_group)s, %(first_seen)s, %(last_seen)s, %(example)s)
ON DUPLICATE KEY UPDATE example = IF(VALUES(last_seen) >= last_seen, VALUES(example), example),
    first_seen = LEAST(first_seen, VALUES(first_seen)), last_seen = GREATEST(last_seen, VALUES(last_seen))

-- known_failures: read groups of failures
SELECT failure_group, first_seen, last_seen, example, type, place, template, mark, marked_at, muted_until, note
FROM {failure} WHERE true {selected}

-- describe_failure: store what a group of failures is
UPDATE {failure} SET type = %(type)s, place = %(place)s, template = %(template)s WHERE failure_group = %(failure_group)s

-- mark_failure: store the mark of a group of failures
UPDATE {failure} SET mark = %(mark)s, marked_at = %(marked_at)s, muted_until = %(muted_until)s, note = %(note)s
WHERE failure_group = %(failure_group)s

-- see_name: store that a name was seen
INSERT INTO {name} (kind, name, last_seen) VALUES (%(kind)s, %(name)s, %(last_seen)s)
ON DUPLICATE KEY UPDATE last_seen = GREATEST(last_seen, VALUES(last_seen))

-- forget_workers: delete the names of workers that were last seen before a time; old days name only tasks and queues
DELETE FROM {name} WHERE kind = 'worker' AND last_seen < %(until)s

-- names: read the names of a kind
SELECT CONVERT(name USING utf8mb4), last_seen FROM {name} WHERE kind = %(kind)s ORDER BY last_seen DESC, name

-- unfinished: count unfinished tasks, up to a limit
SELECT name, queue, status, count(*) FROM (
    SELECT coalesce(name, '') AS name, coalesce(queue, '') AS queue, status FROM {task} FORCE INDEX ({task_date_done_index})
    WHERE date_done IS NULL {selected} {window} LIMIT %(limit)s
) AS t GROUP BY 1, 2, 3

-- durations: read the durations of rows
SELECT run, wait FROM (
    {timed} FROM {task} FORCE INDEX ({task_date_done_index}, {task_name_index})
    WHERE date_done >= %(since)s AND date_done < %(until)s {selected} LIMIT %(limit)s
) AS t

-- slowest: find the rows of a time that ran longest
SELECT task_id, run FROM ({timed} FROM {task} FORCE INDEX ({task_date_done_index}, {task_name_index})
    WHERE date_done >= %(since)s AND date_done < %(until)s {selected}) AS t
WHERE run >= %(least)s ORDER BY run DESC, task_id LIMIT %(limit)s
