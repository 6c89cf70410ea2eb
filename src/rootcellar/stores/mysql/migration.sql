-- mirror_task: store the state of a task that the other store has, unless the stored state must stay or it was buried
INSERT INTO {task} ({task_columns}, put_id) SELECT {task_values}, %(put_id)s FROM DUAL WHERE NOT EXISTS ({burial})
ON DUPLICATE KEY UPDATE put_id = IF({task_overwritable}, VALUES(put_id), put_id), {task_update}

-- settle_task: store the whole row of the other store, unless it was buried
INSERT INTO {task} ({task_columns}, put_id) SELECT {task_values}, %(put_id)s FROM DUAL WHERE NOT EXISTS ({burial})
ON DUPLICATE KEY UPDATE put_id = VALUES(put_id), {task_whole}

-- copy_tasks: store whole rows where there are none, or where the stored ones may be replaced by copies; the first assignment decides
INSERT INTO {task} ({task_columns}, put_id) VALUES {copied_rows}
ON DUPLICATE KEY UPDATE put_id = IF({task_copyable}, VALUES(put_id), put_id), {task_whole}

-- copy_newer_tasks: store whole rows where there are none, or older ones; the first assignment decides
INSERT INTO {task} ({task_columns}, put_id) VALUES {copied_rows}
ON DUPLICATE KEY UPDATE put_id = IF({task_is_newer}, VALUES(put_id), put_id), {task_whole}

-- copied_tasks: find the rows that a call has stored
SELECT task_id FROM {task} FORCE INDEX (PRIMARY) WHERE task_id IN %(task_ids)s AND put_id = %(put_id)s

-- ends_of: read when tasks ended
SELECT task_id, date_done FROM {task} WHERE task_id IN %(task_ids)s

-- guard_burials: read burials, and lock the places of those that are missing
SELECT {buried_columns} FROM {buried} FORCE INDEX (PRIMARY) WHERE task_id IN %(task_ids)s LOCK IN SHARE MODE

-- burials_of: read burials
SELECT {buried_columns} FROM {buried} WHERE task_id IN %(task_ids)s AND buried_at > '1000-01-01'

-- walk_burials: read the next burials in the order of their ids
SELECT {buried_columns} FROM {buried} WHERE task_id > %(after)s ORDER BY task_id LIMIT %(limit)s

-- begin_burial: lock a burial, or its place; the driver makes one statement of many rows if all values are parameters
INSERT INTO {buried} ({buried_columns}) VALUES (%(task_id)s, %(buried_at)s, %(done_at)s, %(fingerprints)s)
ON DUPLICATE KEY UPDATE task_id = VALUES(task_id)

-- end_burials: delete what was stored to lock a place
DELETE b FROM {buried} AS b FORCE INDEX (PRIMARY) WHERE b.task_id IN %(task_ids)s AND b.buried_at = '1000-01-01'

-- put_burial: store a burial
INSERT INTO {buried} ({buried_columns}) VALUES (%(task_id)s, %(buried_at)s, %(done_at)s, %(fingerprints)s)
ON DUPLICATE KEY UPDATE buried_at = VALUES(buried_at), done_at = VALUES(done_at), fingerprints = VALUES(fingerprints)

-- forget_burials: delete some burials from before a moment
DELETE FROM {buried} WHERE buried_at < %(before)s ORDER BY buried_at LIMIT %(limit)s

-- walk_groups: read the next groups in the order of their ids
SELECT taskset_id, result, result_exact, date_done, expires_at FROM {group}
WHERE taskset_id > %(after)s ORDER BY taskset_id LIMIT %(limit)s

-- copy_group: store a group, if there is none
INSERT INTO {group} (taskset_id, result, result_exact, date_done, expires_at)
VALUES (%(taskset_id)s, %(result)s, %(result_exact)s, %(date_done)s, %(expires_at)s)
ON DUPLICATE KEY UPDATE taskset_id = taskset_id

-- copy_newer_group: store a group, unless the stored one is as new; the last assignment changes what the others compare
INSERT INTO {group} (taskset_id, result, result_exact, date_done, expires_at)
VALUES (%(taskset_id)s, %(result)s, %(result_exact)s, %(date_done)s, %(expires_at)s)
ON DUPLICATE KEY UPDATE
    result = IF(COALESCE(date_done, '1000-01-01') < VALUES(date_done), VALUES(result), result),
    result_exact = IF(COALESCE(date_done, '1000-01-01') < VALUES(date_done), VALUES(result_exact), result_exact),
    expires_at = IF(COALESCE(date_done, '1000-01-01') < VALUES(date_done), VALUES(expires_at), expires_at),
    date_done = IF(COALESCE(date_done, '1000-01-01') < VALUES(date_done), VALUES(date_done), date_done)

-- count_roughly: count few tasks exactly, and many as the catalog estimates them
SELECT GREATEST(
    (SELECT COUNT(*) FROM (SELECT 1 FROM {task} LIMIT 10000) AS few),
    IF((SELECT COUNT(*) FROM (SELECT 1 FROM {task} LIMIT 10000) AS few) < 10000, 0, COALESCE((
        SELECT TABLE_ROWS FROM information_schema.TABLES
        WHERE TABLE_SCHEMA = COALESCE(%(task_schema)s, DATABASE()) AND TABLE_NAME = %(task_table)s
    ), 0))
)

-- shared_values: read the values whose names begin with a text
SELECT {shared_columns} FROM {shared} WHERE name >= %(prefix)s AND LEFT(name, CHAR_LENGTH(%(prefix)s)) = %(prefix)s

-- share_value: store a value, whatever is there
INSERT INTO {shared} ({shared_columns}) VALUES (%(name)s, %(value)s, 1, SYSDATE(6))
ON DUPLICATE KEY UPDATE value = VALUES(value), version = version + 1, changed_at = VALUES(changed_at)

-- version_of: read the version of a value
SELECT version FROM {shared} WHERE name = %(name)s

-- share_first: store a value, if there is none
INSERT INTO {shared} ({shared_columns}) VALUES (%(name)s, %(value)s, 1, SYSDATE(6))
ON DUPLICATE KEY UPDATE name = VALUES(name)

-- share_next: store a value, if the version is there
UPDATE {shared} SET value = %(value)s, version = version + 1, changed_at = SYSDATE(6)
WHERE name = %(name)s AND version = %(version)s

-- unshare_values: delete values
DELETE s FROM {shared} AS s FORCE INDEX (PRIMARY) WHERE s.name IN %(names)s

-- server_time: read the time
SELECT SYSDATE(6)
