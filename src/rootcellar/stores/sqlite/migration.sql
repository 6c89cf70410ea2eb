-- mirror_task: store the state of a task that the other store has, unless the stored state must stay or it was buried
INSERT INTO {task} AS t ({task_columns}) SELECT {task_values} WHERE NOT EXISTS ({burial})
ON CONFLICT (task_id) DO UPDATE SET {task_update}
WHERE {task_overwritable}

-- settle_task: store the whole row of the other store, unless it was buried
INSERT INTO {task} AS t ({task_columns}) SELECT {task_values} WHERE NOT EXISTS ({burial})
ON CONFLICT (task_id) DO UPDATE SET {task_whole}

-- copy_task: store a whole row where there is none, or where the stored one may be replaced by a copy
INSERT INTO {task} AS t ({task_columns}) VALUES ({task_values})
ON CONFLICT (task_id) DO UPDATE SET {task_whole}
WHERE {task_copyable}

-- copy_newer_task: store a whole row where there is none, or an older one
INSERT INTO {task} AS t ({task_columns}) VALUES ({task_values})
ON CONFLICT (task_id) DO UPDATE SET {task_whole}
WHERE {task_is_newer}

-- ends_of: read when tasks ended
SELECT task_id, date_done FROM {task} WHERE task_id IN (SELECT value FROM json_each(:task_ids))

-- guard_burials: read burials; the transaction has locked the whole database
SELECT {buried_columns} FROM {buried} WHERE task_id IN (SELECT value FROM json_each(:task_ids))

-- burials_of: read burials
SELECT {buried_columns} FROM {buried} WHERE task_id IN (SELECT value FROM json_each(:task_ids))

-- walk_burials: read the next burials in the order of their ids
SELECT {buried_columns} FROM {buried} WHERE task_id > :after ORDER BY task_id LIMIT :limit

-- put_burial: store a burial
INSERT INTO {buried} ({buried_columns}) VALUES (:task_id, :buried_at, :done_at, :fingerprints)
ON CONFLICT (task_id) DO UPDATE SET buried_at = excluded.buried_at, done_at = excluded.done_at,
    fingerprints = excluded.fingerprints

-- forget_burials: delete some burials from before a moment
DELETE FROM {buried} WHERE task_id IN (SELECT task_id FROM {buried} WHERE buried_at < :before LIMIT :limit)

-- walk_groups: read the next groups in the order of their ids
SELECT taskset_id, result, result_exact, date_done, expires_at FROM {group}
WHERE taskset_id > :after AND taskset_id < x'' ORDER BY taskset_id LIMIT :limit

-- copy_group: store a group, if there is none
INSERT INTO {group} (taskset_id, result, result_exact, date_done, expires_at)
VALUES (:taskset_id, :result, :result_exact, :date_done, :expires_at) ON CONFLICT DO NOTHING

-- copy_newer_group: store a group, unless the stored one is as new
INSERT INTO {group} AS g (taskset_id, result, result_exact, date_done, expires_at)
VALUES (:taskset_id, :result, :result_exact, :date_done, :expires_at)
ON CONFLICT (taskset_id) DO UPDATE SET result = excluded.result, result_exact = excluded.result_exact,
    date_done = excluded.date_done, expires_at = excluded.expires_at
WHERE coalesce(g.date_done, '') < excluded.date_done

-- count_roughly: count the tasks; an index is read, and not the rows
SELECT count(*) FROM {task}

-- shared_values: read the values whose names begin with a text
SELECT {shared_columns} FROM {shared} WHERE name >= :prefix AND substr(name, 1, length(:prefix)) = :prefix

-- share_value: store a value, whatever is there
INSERT INTO {shared} AS s ({shared_columns}) VALUES (:name, :value, 1, strftime('%Y-%m-%d %H:%M:%f', 'now'))
ON CONFLICT (name) DO UPDATE SET value = excluded.value, version = s.version + 1, changed_at = excluded.changed_at

-- version_of: read the version of a value
SELECT version FROM {shared} WHERE name = :name

-- share_first: store a value, if there is none
INSERT INTO {shared} ({shared_columns}) VALUES (:name, :value, 1, strftime('%Y-%m-%d %H:%M:%f', 'now'))
ON CONFLICT DO NOTHING

-- share_next: store a value, if the version is there
UPDATE {shared} SET value = :value, version = version + 1, changed_at = strftime('%Y-%m-%d %H:%M:%f', 'now')
WHERE name = :name AND version = :version

-- unshare_values: delete values
DELETE FROM {shared} WHERE name IN (SELECT value FROM json_each(:names))

-- server_time: read the time of the host
SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')
