-- put_task: store a task's state, unless the stored state must stay
INSERT INTO {task} AS t ({task_columns}) VALUES ({task_values})
ON CONFLICT (task_id) DO UPDATE SET {task_update}
WHERE {task_overwritable}

-- put_sent: store a task that was sent, unless it has a row
INSERT INTO {task} ({task_columns}) VALUES ({task_values}) ON CONFLICT DO NOTHING

-- arrive: store a chord's part, once
INSERT INTO {part} (group_id, task_id, group_index, status, result)
SELECT :part_group_id, :part_task_id, :part_index, :part_status, :part_result
WHERE NOT EXISTS (SELECT 1 FROM {chord} WHERE group_id = :part_group_id AND date_done IS NOT NULL)
ON CONFLICT DO NOTHING

-- count_arrived: add the part to the chord's count
INSERT INTO {chord} AS c (group_id, counted, owner, expires_at)
VALUES (:part_group_id, :arrived, :part_owner, :part_expires_at)
ON CONFLICT (group_id) DO UPDATE SET counted = c.counted + excluded.counted, owner = excluded.owner,
    -- a chord without an expiry keeps none, and a part without one changes nothing
    expires_at = CASE WHEN c.expires_at < excluded.expires_at THEN excluded.expires_at ELSE c.expires_at END

-- chord_progress: read a chord's size, count and end
SELECT size + extra, counted, date_done IS NOT NULL FROM {chord} WHERE group_id = :part_group_id

-- get_task: read one task
SELECT {task_select} FROM {task} WHERE task_id = :task_id

-- get_tasks: read many tasks
SELECT {task_select} FROM {task} WHERE task_id IN (SELECT value FROM json_each(:task_ids))

-- delete_tasks: delete tasks
DELETE FROM {task} WHERE task_id IN (SELECT value FROM json_each(:task_ids))

-- replace_task: replace the values of a task that has not changed
UPDATE {task} SET {task_replacement}
WHERE task_id = :task_id AND status = :old_status AND {task_still_the_same}

-- set_expiry: set another expiry of a task that has not changed
UPDATE {task} SET expires_at = :expires_at
WHERE task_id = :task_id AND status = :old_status
    AND date_done IS :old_date_done AND expires_at IS :old_expires_at

-- scan_tasks: read the next tasks in the order of their ids; an id that is not a text belongs to no task, and sorts after all texts
SELECT {task_select} FROM {task} WHERE task_id > :after AND task_id < x'' ORDER BY task_id LIMIT :limit

-- put_group: store a group
INSERT INTO {group} (taskset_id, result, result_exact, date_done, expires_at)
VALUES (:taskset_id, :result, :result_exact, :date_done, :expires_at)
ON CONFLICT (taskset_id) DO UPDATE SET result = excluded.result, result_exact = excluded.result_exact,
    date_done = excluded.date_done, expires_at = excluded.expires_at

-- get_group: read a group
SELECT taskset_id, result, result_exact, date_done, expires_at FROM {group} WHERE taskset_id = :group_id

-- delete_group: delete a group
DELETE FROM {group} WHERE taskset_id = :group_id

-- drop_parts: delete the parts of a chord
DELETE FROM {part} WHERE group_id = :group_id

-- begin_chord: store body and header
INSERT INTO {chord} (group_id, body, header, expires_at)
VALUES (:group_id, :body, :header, :expires_at)
ON CONFLICT (group_id) DO UPDATE SET size = NULL, extra = 0, counted = 0,
    body = excluded.body, header = excluded.header, claimed_by = NULL, claimed_until = NULL, date_done = NULL,
    expires_at = excluded.expires_at

-- size_chord: set the number of parts
INSERT INTO {chord} (group_id, size) VALUES (:group_id, :size)
ON CONFLICT (group_id) DO UPDATE SET size = excluded.size

-- note_growth: store an idempotency key among the parts, once
INSERT INTO {part} (group_id, task_id, group_index, status) VALUES (:group_id, :key, -2, '') ON CONFLICT DO NOTHING

-- grow_chord: add to the number of parts
INSERT INTO {chord} AS c (group_id, extra) VALUES (:group_id, :size)
ON CONFLICT (group_id) DO UPDATE SET extra = c.extra + excluded.extra

-- claim_chord: claim a complete chord that has no valid claim
UPDATE {chord} SET claimed_by = :claimant, claimed_until = :now + :lease
WHERE group_id = :group_id AND counted >= size + extra AND date_done IS NULL
    AND (claimed_until IS NULL OR claimed_until < :now OR claimed_by = :claimant)

-- get_chord: read an unfinished chord
SELECT group_id, body, header, expires_at FROM {chord} WHERE group_id = :group_id AND date_done IS NULL

-- chord_parts: read the parts in the order of the header; a part that was counted without a result has that of its task
SELECT p.task_id, nullif(p.group_index, -1), p.status, p.result, t.result, t.result_exact
FROM {part} AS p LEFT JOIN {task} AS t ON t.task_id = p.task_id AND p.result IS NULL
WHERE p.group_id = :group_id AND p.group_index <> -2
ORDER BY p.group_index = -1, p.group_index, p.task_id

-- finish_chord: delete the body; the row stays, so that late parts are refused
UPDATE {chord} SET date_done = :now, body = NULL, header = NULL WHERE group_id = :group_id

-- living_parts: find tasks that are parts; no index finds them
SELECT DISTINCT task_id FROM {part} WHERE task_id IN (SELECT value FROM json_each(:task_ids)) AND group_index <> -2

-- orphaned_chords: find chords that are complete, not finished, and without a valid claim
SELECT group_id FROM {chord}
WHERE date_done IS NULL AND counted >= size + extra AND (claimed_until IS NULL OR claimed_until < :now)
    AND owner = :owner
LIMIT :limit

-- due_tasks: find the next tasks that have expired, in the order in which they expire
SELECT rowid, expires_at, task_id, {wanted} FROM {task} WHERE {due} ORDER BY expires_at, rowid LIMIT {limit}

-- same_tasks: read the numbers of the rows of tasks that are wanted, and when they expire
SELECT rowid, task_id, expires_at FROM {task} WHERE task_id IN (SELECT value FROM json_each(:ids)) AND {wanted}

-- delete_rows: delete tasks by the numbers of their rows
DELETE FROM {task} WHERE rowid IN (SELECT value FROM json_each(:rows))

-- count_expired_groups: count the groups that have expired
SELECT count(*) FROM {group} WHERE expires_at < :now

-- delete_expired_groups: delete some groups that have expired
DELETE FROM {group} WHERE rowid IN (SELECT rowid FROM {group} WHERE expires_at < :now LIMIT :limit)

-- count_expired_chords: count the chords that were finished a day ago, or have expired
SELECT count(*) FROM {chord} WHERE expires_at < :now OR date_done < :yesterday

-- expired_chords: find some chords that were finished a day ago, or have expired, and the numbers of their parts
SELECT rowid, CASE WHEN date_done IS NULL THEN counted ELSE 0 END FROM {chord}
WHERE expires_at < :now OR date_done < :yesterday LIMIT :limit

-- delete_expired_parts: delete the parts of the chords that the next statement deletes
DELETE FROM {part} WHERE group_id IN (
    SELECT group_id FROM {chord} WHERE rowid IN (SELECT value FROM json_each(:rows))
)

-- delete_expired_chords: delete the chords that were found
DELETE FROM {chord} WHERE rowid IN (SELECT value FROM json_each(:rows))

-- query_tasks: the newest tasks that match, unfinished ones first
SELECT {task_select} FROM {task}
WHERE (:states IS NULL OR status IN (SELECT value FROM json_each(:states)))
    AND (:names IS NULL OR EXISTS (SELECT 1 FROM json_each(:names) AS n WHERE name GLOB n.value))
    AND (:queues IS NULL OR EXISTS (SELECT 1 FROM json_each(:queues) AS q WHERE queue GLOB q.value))
    AND (:workers IS NULL OR EXISTS (SELECT 1 FROM json_each(:workers) AS w WHERE worker GLOB w.value))
    AND substr(task_id, 1, length(:id_prefix)) = :id_prefix
    AND (:since IS NULL OR coalesce(date_done, date_started, date_sent) >= :since)
    AND (:until IS NULL OR coalesce(date_done, date_started, date_sent) < :until)
    AND task_id < x''
ORDER BY date_done DESC NULLS FIRST, date_started DESC NULLS FIRST, date_sent DESC NULLS FIRST
LIMIT :limit

-- unfinished_by_state: how many tasks have not ended
SELECT status, count(*) FROM {task} WHERE date_done IS NULL GROUP BY status

-- oldest_task: when the oldest result was stored, without those that ended at an unknown time
SELECT min(date_done) FROM {task} WHERE date_done > '1970-01-02'

-- open_chords: how many chords are not finished, and how many of them are complete without a valid claim
SELECT count(*), coalesce(sum(counted >= size + extra AND (claimed_until IS NULL OR claimed_until < :now)), 0)
FROM {chord} WHERE date_done IS NULL AND body IS NOT NULL

-- table_sizes: how many rows the tables have; the file has one size for all of them
SELECT :task_table, (SELECT count(*) FROM {task}), NULL, NULL, NULL
UNION ALL SELECT :group_table, (SELECT count(*) FROM {group}), NULL, NULL, NULL
UNION ALL SELECT 'the whole file', NULL, (SELECT page_count FROM pragma_page_count) * (SELECT page_size FROM pragma_page_size), NULL, NULL

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
SELECT name FROM names WHERE name IS NOT NULL LIMIT :limit

-- place_hold: store a hold
INSERT INTO {hold} (filter, reason, placed_by, placed_at) VALUES (:filter, :reason, :placed_by, :placed_at)

-- last_hold: read the hold that this connection has just stored
SELECT {hold_columns} FROM {hold} WHERE id = last_insert_rowid()

-- one_hold: read a hold
SELECT {hold_columns} FROM {hold} WHERE id = :id

-- release_hold: release a hold that is active
UPDATE {hold} SET released_by = :released_by, released_at = :released_at WHERE id = :id AND released_at IS NULL

-- holds: read every hold
SELECT {hold_columns} FROM {hold} ORDER BY id

-- holds_placed: how many holds were ever placed
SELECT count(*) FROM {hold}

-- lock_spared: lock tasks that are to be deleted, and say of each whether it stays
SELECT task_id, ({spared}) IS TRUE FROM {task} WHERE task_id IN (SELECT value FROM json_each(:task_ids))
