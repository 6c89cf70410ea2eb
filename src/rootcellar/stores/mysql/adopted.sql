-- get_adopted_tasks: read tasks from the table that Celery made
SELECT * FROM {old_task} WHERE task_id IN %(task_ids)s

-- newest_adopted_tasks: read some tasks that Celery stored before another one, the newest first
SELECT * FROM {old_task} WHERE %(before)s IS NULL OR id < %(before)s ORDER BY id DESC LIMIT %(limit)s

-- get_adopted_group: read a group from the table that Celery made
SELECT * FROM {old_group} WHERE taskset_id = %(group_id)s

-- delete_adopted_tasks: delete tasks that Celery stored
DELETE FROM {old_task} WHERE task_id IN %(task_ids)s

-- delete_expired_adopted_tasks: delete some of Celery's tasks that have expired
DELETE FROM {old_task} WHERE date_done < %(done_before)s ORDER BY id LIMIT %(limit)s

-- delete_expired_adopted_groups: delete some of Celery's groups that have expired
DELETE FROM {old_group} WHERE date_done < %(done_before)s ORDER BY id LIMIT %(limit)s

-- count_expired_adopted_tasks: count Celery's tasks that have expired
SELECT count(*) FROM {old_task} WHERE date_done < %(done_before)s

-- count_expired_adopted_groups: count Celery's groups that have expired
SELECT count(*) FROM {old_group} WHERE date_done < %(done_before)s

-- walk_adopted_tasks: read the next tasks that Celery stored
SELECT * FROM {old_task} WHERE id > %(after)s ORDER BY id LIMIT %(limit)s

-- walk_adopted_groups: read the next groups that Celery stored
SELECT * FROM {old_group} WHERE id > %(after)s ORDER BY id LIMIT %(limit)s

-- count_adopted_roughly: how many tasks Celery has stored at most
SELECT MAX(id) - MIN(id) + 1 FROM {old_task}
