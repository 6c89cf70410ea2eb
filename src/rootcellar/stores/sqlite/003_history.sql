-- The group of similar failures that a failure belongs to.
ALTER TABLE {task} ADD COLUMN failure_group INTEGER;

CREATE INDEX {task_failure_group_index} ON {task} (failure_group, date_done) WHERE failure_group IS NOT NULL;
CREATE INDEX {task_unfinished_index} ON {task} (coalesce(date_started, date_sent), task_id) WHERE date_done IS NULL;
