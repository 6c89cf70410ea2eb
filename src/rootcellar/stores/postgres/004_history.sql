-- The group of similar failures that a failure belongs to, and a number for the time at which a row was last stored that
-- is or was finished: at least the number of its transaction. A large table gets the indexes later, by `rootcellar schema
-- upgrade`, without a lock that makes workers wait.
ALTER TABLE {task} ADD COLUMN failure_group bigint;
-- the default is set by another statement, so that the server does not rewrite the rows: an old row has no value
ALTER TABLE {task} ADD COLUMN changed bigint;
ALTER TABLE {task} ALTER COLUMN changed SET DEFAULT (txid_current() | 63);

CREATE INDEX {task_changed_index} ON {task} USING brin (changed) WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX {task_failure_group_index} ON {task} (failure_group, date_done) WHERE failure_group IS NOT NULL;
CREATE INDEX {task_unfinished_index} ON {task} (coalesce(date_started, date_sent)) WHERE date_done IS NULL;
