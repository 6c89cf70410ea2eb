-- put_task: store a task's state, unless the stored state must stay: the first assignment decides, and the others check whether the row is now that of this call
INSERT INTO {task} ({task_columns}, put_id) VALUES ({task_values}, %(put_id)s)
ON DUPLICATE KEY UPDATE put_id = IF({task_overwritable}, VALUES(put_id), put_id), {task_update}

-- put_sent: store tasks that were sent, unless they have rows
INSERT INTO {task} ({task_columns}, put_id) VALUES {sent_rows}
ON DUPLICATE KEY UPDATE put_id = put_id

-- arrive: store a chord's part, once
INSERT INTO {part} (group_id, task_id, group_index, status, result)
VALUES (%(part_group_id)s, %(part_task_id)s, %(part_index)s, %(part_status)s, %(part_result)s)
ON DUPLICATE KEY UPDATE group_id = VALUES(group_id)

-- count_arrived: add the part to the chord's count, unless the chord is finished
INSERT INTO {chord} (group_id, counted, owner, expires_at)
VALUES (%(part_group_id)s, %(arrived)s, %(part_owner)s, %(part_expires_at)s)
ON DUPLICATE KEY UPDATE counted = counted + IF(date_done IS NULL, VALUES(counted), 0), owner = VALUES(owner),
    -- a chord without an expiry keeps none, and a part without one changes nothing
    expires_at = IF(expires_at < VALUES(expires_at), VALUES(expires_at), expires_at)

-- chord_progress: read a chord's size, count and end
SELECT size + extra, counted, date_done IS NOT NULL FROM {chord} WHERE group_id = %(part_group_id)s

-- refuse_part: delete a part that was stored after the chord was finished
DELETE FROM {part}
WHERE group_id = %(part_group_id)s AND task_id = %(part_task_id)s AND group_index = %(part_index)s

-- get_task: read one task
SELECT {task_select} FROM {task} WHERE task_id = %(task_id)s

-- get_tasks: read many tasks
SELECT {task_select} FROM {task} WHERE task_id IN %(task_ids)s

-- hold_tasks: lock tasks that are to be deleted
SELECT task_id FROM {task} FORCE INDEX (PRIMARY) WHERE task_id IN %(ids)s FOR UPDATE

-- delete_tasks: delete tasks, by the primary key: all statements lock rows in its order, and another order could cause a deadlock
DELETE t FROM {task} AS t FORCE INDEX (PRIMARY) WHERE t.task_id IN %(task_ids)s

-- replace_task: replace the values of a task that has not changed
UPDATE {task} SET {task_replacement}
WHERE task_id = %(task_id)s AND status = %(old_status)s AND {task_still_the_same}

-- set_expiry: set another expiry of a task that has not changed
UPDATE {task} SET expires_at = %(expires_at)s
WHERE task_id = %(task_id)s AND status = %(old_status)s
    AND date_done <=> %(old_date_done)s AND expires_at <=> %(old_expires_at)s

-- scan_tasks: read the next tasks in the order of their ids
SELECT {task_select} FROM {task} WHERE task_id > %(after)s ORDER BY task_id LIMIT %(limit)s

-- put_group: store a group
INSERT INTO {group} (taskset_id, result, result_exact, date_done, expires_at)
VALUES (%(taskset_id)s, %(result)s, %(result_exact)s, %(date_done)s, %(expires_at)s)
ON DUPLICATE KEY UPDATE result = VALUES(result), result_exact = VALUES(result_exact),
    date_done = VALUES(date_done), expires_at = VALUES(expires_at)

-- get_group: read a group
SELECT taskset_id, result, result_exact, date_done, expires_at FROM {group} WHERE taskset_id = %(group_id)s

-- delete_group: delete a group
DELETE FROM {group} WHERE taskset_id = %(group_id)s

-- drop_parts: delete the parts of a chord
DELETE p FROM {part} AS p FORCE INDEX (PRIMARY) WHERE p.group_id = %(group_id)s

-- begin_chord: store body and header
INSERT INTO {chord} (group_id, body, header, expires_at)
VALUES (%(group_id)s, %(body)s, %(header)s, %(expires_at)s)
ON DUPLICATE KEY UPDATE size = NULL, extra = 0, counted = 0, body = VALUES(body), header = VALUES(header),
    claimed_by = NULL, claimed_until = NULL, date_done = NULL, expires_at = VALUES(expires_at)

-- size_chord: set the number of parts
INSERT INTO {chord} (group_id, size) VALUES (%(group_id)s, %(size)s)
ON DUPLICATE KEY UPDATE size = VALUES(size)

-- note_growth: store an idempotency key among the parts, once
INSERT INTO {part} (group_id, task_id, group_index, status) VALUES (%(group_id)s, %(key)s, -2, '')
ON DUPLICATE KEY UPDATE group_id = VALUES(group_id)

-- grow_chord: add to the number of parts
INSERT INTO {chord} (group_id, extra) VALUES (%(group_id)s, %(size)s)
ON DUPLICATE KEY UPDATE extra = extra + VALUES(extra)

-- claim_chord: claim a complete chord that has no valid claim
UPDATE {chord} SET
    claimed_by = %(claimant)s,
    claimed_until = SYSDATE(6) + INTERVAL %(lease)s MICROSECOND
WHERE group_id = %(group_id)s AND counted >= size + extra AND date_done IS NULL
    AND (claimed_until IS NULL OR claimed_until < SYSDATE(6) OR claimed_by = %(claimant)s)

-- get_chord: read an unfinished chord
SELECT group_id, body, header, expires_at FROM {chord} WHERE group_id = %(group_id)s AND date_done IS NULL

-- chord_parts: read the parts in the order of the header; a part that was counted without a result has that of its task
SELECT p.task_id, NULLIF(p.group_index, -1), p.status, p.result, t.result, t.result_exact
FROM {part} AS p LEFT JOIN {task} AS t ON t.task_id = p.task_id AND p.result IS NULL
WHERE p.group_id = %(group_id)s AND p.group_index <> -2
ORDER BY p.group_index = -1, p.group_index, p.task_id

-- finish_chord: delete the body; the row stays, so that late parts are refused
UPDATE {chord} SET date_done = SYSDATE(6), body = NULL, header = NULL WHERE group_id = %(group_id)s

-- living_parts: find tasks that are parts; no index finds them
SELECT DISTINCT task_id FROM {part} WHERE task_id IN %(task_ids)s AND group_index <> -2

-- orphaned_chords: find chords that are complete, not finished, and without a valid claim
SELECT group_id FROM {chord}
WHERE date_done IS NULL AND counted >= size + extra AND (claimed_until IS NULL OR claimed_until < SYSDATE(6))
    AND owner = %(owner)s
LIMIT %(limit)s

-- due_tasks: find the next tasks that have expired, in the order in which they expire
SELECT task_id, expires_at, {wanted} FROM {task} FORCE INDEX ({task_expires_index})
WHERE {due} ORDER BY expires_at, task_id LIMIT {limit}

-- hold_due_tasks: lock the tasks that were found, if they are still expired and wanted
SELECT task_id FROM {task} FORCE INDEX (PRIMARY) WHERE task_id IN %(ids)s AND {expired} AND {wanted} FOR UPDATE

-- hold_same_tasks: lock tasks, and read when they expire
SELECT task_id, expires_at FROM {task} FORCE INDEX (PRIMARY) WHERE task_id IN %(ids)s AND {wanted} FOR UPDATE

-- count_expired_groups: count the groups that have expired
SELECT count(*) FROM {group} WHERE expires_at < %(now)s

-- expired_groups: find some groups that have expired
SELECT taskset_id FROM {group} WHERE expires_at < %(now)s ORDER BY expires_at LIMIT %(limit)s

-- delete_expired_groups: delete the groups that were found, if they are still expired
DELETE g FROM {group} AS g FORCE INDEX (PRIMARY) WHERE g.taskset_id IN %(ids)s AND g.expires_at < %(now)s

-- expired_chords: find some chords that were finished a day ago, or have expired
(SELECT group_id, CASE WHEN date_done IS NULL THEN counted ELSE 0 END FROM {chord}
    WHERE expires_at < %(now)s LIMIT %(limit)s)
UNION (SELECT group_id, 0 FROM {chord} WHERE date_done < %(yesterday)s LIMIT %(limit)s)

-- count_expired_chords: count the chords that were finished a day ago, or have expired
SELECT count(*) FROM {chord} WHERE expires_at < %(now)s OR date_done < %(yesterday)s

-- hold_expired_chords: lock the chords that were found, if they are still to be deleted
SELECT group_id FROM {chord} FORCE INDEX (PRIMARY)
WHERE group_id IN %(ids)s AND (expires_at < %(now)s OR date_done < %(yesterday)s)
ORDER BY group_id FOR UPDATE

-- delete_parts: delete the parts of chords
DELETE p FROM {part} AS p FORCE INDEX (PRIMARY) WHERE p.group_id IN %(ids)s

-- delete_chords: delete chords
DELETE c FROM {chord} AS c FORCE INDEX (PRIMARY) WHERE c.group_id IN %(ids)s

-- query_unfinished: the tasks that match and are not finished, the newest first
SELECT {task_select} FROM {task}
WHERE date_done IS NULL AND {matches}
    AND (%(since)s IS NULL OR COALESCE(date_started, date_sent) >= %(since)s)
    AND (%(until)s IS NULL OR COALESCE(date_started, date_sent) < %(until)s)
ORDER BY date_started IS NULL DESC, date_started DESC, date_sent IS NULL DESC, date_sent DESC
LIMIT %(limit)s

-- query_finished: the finished tasks that match, the newest first
SELECT {task_select} FROM {task}
WHERE date_done >= COALESCE(%(since)s, '0000-00-00') AND (%(until)s IS NULL OR date_done < %(until)s) AND {matches}
ORDER BY date_done DESC, date_started IS NULL DESC, date_started DESC
LIMIT %(limit)s

-- unfinished_by_state: how many tasks have not ended
SELECT status, COUNT(*) FROM {task} WHERE date_done IS NULL GROUP BY status

-- oldest_task: when the oldest result was stored, without those that ended at an unknown time
SELECT MIN(date_done) FROM {task} WHERE date_done > '1970-01-02'

-- open_chords: how many chords are not finished, and how many of them are complete without a valid claim
SELECT COUNT(*), COALESCE(SUM(counted >= size + extra AND (claimed_until IS NULL OR claimed_until < SYSDATE(6))), 0)
FROM {chord} WHERE date_done IS NULL AND body IS NOT NULL

-- table_sizes: the size of each table, from the catalog
SELECT TABLE_NAME, TABLE_ROWS, DATA_LENGTH, INDEX_LENGTH, NULL FROM information_schema.TABLES
WHERE TABLE_SCHEMA IN (COALESCE(%(task_schema)s, DATABASE()), COALESCE(%(group_schema)s, DATABASE()))
    AND TABLE_NAME IN %(tables)s
ORDER BY TABLE_NAME

-- oldest_finished: the earliest end of a task
SELECT min(date_done) FROM {task}

-- oldest_unfinished: the earliest start, or else sending, of a task that has not ended
SELECT min(coalesce(date_started, date_sent)) FROM {task} WHERE date_done IS NULL

-- place_hold: store a hold
INSERT INTO {hold} (filter, reason, placed_by, placed_at) VALUES (%(filter)s, %(reason)s, %(placed_by)s, %(placed_at)s)

-- last_hold: read the hold that this connection has just stored
SELECT {hold_columns} FROM {hold} WHERE id = LAST_INSERT_ID()

-- one_hold: read a hold
SELECT {hold_columns} FROM {hold} WHERE id = %(id)s

-- release_hold: release a hold that is active
UPDATE {hold} SET released_by = %(released_by)s, released_at = %(released_at)s WHERE id = %(id)s AND released_at IS NULL

-- holds: read every hold
SELECT {hold_columns} FROM {hold} ORDER BY id

-- holds_placed: how many holds were ever placed
SELECT count(*) FROM {hold}

-- lock_spared: lock tasks that are to be deleted, and say of each whether it stays
SELECT task_id, ({spared}) IS TRUE FROM {task} FORCE INDEX (PRIMARY) WHERE task_id IN %(task_ids)s FOR UPDATE
