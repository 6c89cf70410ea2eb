-- The group of similar failures that a failure belongs to. No index: an index of this server has an entry for every row,
-- and the index of the states finds the failures.
ALTER TABLE {task} ADD COLUMN failure_group BIGINT;
