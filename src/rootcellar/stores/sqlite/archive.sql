-- file_of_path: find a file of the archive by its path
SELECT {file_columns} FROM {archive} WHERE path = :path

-- file_of_number: find a file of the archive
SELECT {file_columns} FROM {archive} WHERE id = :id

-- number_of_path: the number of a file that was just added
SELECT id FROM {archive} WHERE path = :path

-- add_file: add a file to the manifest
INSERT INTO {archive} (location, path, day, n, bytes, sha256, first_done, last_done, expires_at, state, created_at,
    changed_at)
VALUES (:location, :path, :day, :n, :bytes, :sha256, :first_done, :last_done, :expires_at, :state, :created_at,
    :changed_at)

-- set_void: store which rows of a file do not count
UPDATE {archive} SET void = :void WHERE id = :id

-- mark_file: set the state of a file; a deleted file never counts again
UPDATE {archive} SET state = :state, changed_at = :changed_at WHERE id = :id AND state <> :deleted

-- files: the files with tasks that ended in a time
SELECT {file_columns} FROM {archive} WHERE (:since IS NULL OR last_done >= :since) AND (:until IS NULL OR first_done < :until)
    AND state NOT IN (:unwanted, :home)
ORDER BY day, id

-- homes: the folders with the files of this database
SELECT path FROM {archive} WHERE state = :state ORDER BY id

-- known_paths: which of these paths are in the manifest
SELECT path FROM {archive} WHERE path IN (SELECT value FROM json_each(:paths))

-- lock_file: read which rows of a file do not count; the transaction has locked the whole database
SELECT n, void FROM {archive} WHERE id = :id

-- find_entries: find archived results by the hashes of their ids
SELECT id_hash, file, place FROM {archived} WHERE id_hash IN (SELECT value FROM json_each(:hashes))

-- add_entry: add an archived result
INSERT INTO {archived} (id_hash, file, place) VALUES (:hash, :file, :place)

-- drop_entry: remove an archived result
DELETE FROM {archived} WHERE id_hash = :hash AND file = :file AND place = :place

-- drop_entries_of_file: remove all archived results of a file
DELETE FROM {archived} WHERE file = :file

-- lock_tasks: read live rows; the transaction has locked the whole database
SELECT {task_select} FROM {task} WHERE task_id IN (SELECT value FROM json_each(:task_ids))

-- restore_task: insert a live row, unless there is one
INSERT INTO {task} ({task_columns}) VALUES ({task_values}) ON CONFLICT DO NOTHING
