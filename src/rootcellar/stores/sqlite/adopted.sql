-- get_adopted_tasks: read tasks from the table that Celery made
SELECT * FROM {old_task} WHERE task_id IN (SELECT value FROM json_each(:task_ids))

-- newest_adopted_tasks: read some tasks that Celery stored before another one, the newest first
SELECT * FROM {old_task} WHERE :before IS NULL OR id < :before ORDER BY id DESC LIMIT :limit

-- get_adopted_group: read a group from the table that Celery made
SELECT * FROM {old_group} WHERE taskset_id = :group_id

-- delete_adopted_tasks: delete tasks that Celery stored
DELETE FROM {old_task} WHERE task_id IN (SELECT value FROM json_each(:task_ids))

-- delete_expired_adopted_tasks: delete some of Celery's tasks that have expired
DELETE FROM {old_task} WHERE id IN (SELECT id FROM {old_task} WHERE date_done < :done_before LIMIT :limit)

-- delete_expired_adopted_groups: delete some of Celery's groups that have expired
DELETE FROM {old_group} WHERE id IN (SELECT id FROM {old_group} WHERE date_done < :done_before LIMIT :limit)

-- count_expired_adopted_tasks: count Celery's tasks that have expired
SELECT count(*) FROM {old_task} WHERE date_done < :done_before

-- count_expired_adopted_groups: count Celery's groups that have expired
SELECT count(*) FROM {old_group} WHERE date_done < :done_before

-- walk_adopted_tasks: read the next tasks that Celery stored
SELECT * FROM {old_task} WHERE id > :after ORDER BY id LIMIT :limit

-- walk_adopted_groups: read the next groups that Celery stored
SELECT * FROM {old_group} WHERE id > :after ORDER BY id LIMIT :limit

-- count_adopted_roughly: how many tasks Celery has stored at most
SELECT max(id) - min(id) + 1 FROM {old_task}
