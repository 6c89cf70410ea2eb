-- file_of_path: find a file of the archive by its path
SELECT {file_columns} FROM {archive} WHERE path = %(path)s

-- file_of_number: find a file of the archive
SELECT {file_columns} FROM {archive} WHERE id = %(id)s

-- number_of_path: the number of a file that was just added
SELECT id FROM {archive} WHERE path = %(path)s

-- add_file: add a file to the manifest
INSERT INTO {archive} (location, path, day, n, bytes, sha256, first_done, last_done, expires_at, state, created_at,
    changed_at)
VALUES (%(location)s, %(path)s, %(day)s, %(n)s, %(bytes)s, %(sha256)s, %(first_done)s, %(last_done)s, %(expires_at)s,
    %(state)s, %(created_at)s, %(changed_at)s)

-- set_void: store which rows of a file do not count
UPDATE {archive} SET void = %(void)s WHERE id = %(id)s

-- mark_file: set the state of a file; a deleted file never counts again
UPDATE {archive} SET state = %(state)s, changed_at = %(changed_at)s WHERE id = %(id)s AND state <> %(deleted)s

-- files: the files with tasks that ended in a time
SELECT {file_columns} FROM {archive} WHERE (%(since)s IS NULL OR last_done >= %(since)s) AND (%(until)s IS NULL OR first_done < %(until)s)
    AND state NOT IN (%(unwanted)s, %(home)s)
ORDER BY day, id

-- homes: the folders with the files of this database
SELECT path FROM {archive} WHERE state = %(state)s ORDER BY id

-- known_paths: which of these paths are in the manifest
SELECT path FROM {archive} WHERE path IN %(paths)s

-- lock_file: lock a file, and read which rows of it do not count
SELECT n, void FROM {archive} WHERE id = %(id)s FOR UPDATE

-- find_entries: find archived results by the hashes of their ids
SELECT id_hash, file, place FROM {archived} WHERE id_hash IN %(hashes)s

-- add_entry: add an archived result
INSERT INTO {archived} (id_hash, file, place) VALUES (%(hash)s, %(file)s, %(place)s)

-- drop_entry: remove an archived result
DELETE FROM {archived} WHERE id_hash = %(hash)s AND file = %(file)s AND place = %(place)s

-- drop_entries_of_file: remove all archived results of a file
DELETE FROM {archived} WHERE file = %(file)s

-- lock_tasks: lock and read live rows, by the primary key, because all statements lock rows in its order
SELECT {task_select} FROM {task} FORCE INDEX (PRIMARY) WHERE task_id IN %(task_ids)s FOR UPDATE

-- lock_free_tasks: the same without the rows that another transaction has locked, which are being changed and stay
SELECT {task_select} FROM {task} FORCE INDEX (PRIMARY) WHERE task_id IN %(task_ids)s FOR UPDATE SKIP LOCKED

-- restore_task: insert a live row, unless there is one
INSERT INTO {task} ({task_columns}, put_id) VALUES ({task_values}, 0) ON DUPLICATE KEY UPDATE put_id = put_id
