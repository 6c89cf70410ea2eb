-- get_adopted_tasks: read tasks from the table that Celery made
SELECT * FROM {old_task} WHERE task_id = ANY(%(task_ids)s)

-- newest_adopted_tasks: read some tasks that Celery stored before another one, the newest first
SELECT * FROM {old_task} WHERE %(before)s::bigint IS NULL OR id < %(before)s ORDER BY id DESC LIMIT %(limit)s

-- get_adopted_group: read a group from the table that Celery made
SELECT * FROM {old_group} WHERE taskset_id = %(group_id)s

-- delete_adopted_tasks: delete tasks that Celery stored
DELETE FROM {old_task} WHERE task_id = ANY(%(task_ids)s)

-- delete_expired_adopted_tasks: delete some of Celery's tasks that have expired
DELETE FROM {old_task} WHERE id = ANY(ARRAY(
    SELECT id FROM {old_task} WHERE date_done < %(done_before)s LIMIT %(limit)s
))

-- delete_expired_adopted_groups: delete some of Celery's groups that have expired
DELETE FROM {old_group} WHERE id = ANY(ARRAY(
    SELECT id FROM {old_group} WHERE date_done < %(done_before)s LIMIT %(limit)s
))

-- count_expired_adopted_tasks: count Celery's tasks that have expired
SELECT count(*) FROM {old_task} WHERE date_done < %(done_before)s

-- count_expired_adopted_groups: count Celery's groups that have expired
SELECT count(*) FROM {old_group} WHERE date_done < %(done_before)s

-- walk_adopted_tasks: read the next tasks from the table that Celery made
SELECT * FROM {old_task} WHERE id > %(after)s ORDER BY id LIMIT %(limit)s

-- walk_adopted_groups: read the next groups from the table that Celery made
SELECT * FROM {old_group} WHERE id > %(after)s ORDER BY id LIMIT %(limit)s

-- count_adopted_roughly: count how many tasks Celery has stored at most
SELECT max(id) - min(id) + 1 FROM {old_task}
