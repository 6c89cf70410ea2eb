-- lock: let one create, upgrade or adopt at a time
SELECT pg_advisory_xact_lock(7247033)

-- find_table: name a table if it exists; reading pg_class makes a session that was waiting for the lock see what others made
SELECT (SELECT c.oid::regclass::text FROM pg_class AS c WHERE c.oid = to_regclass(%(table)s))

-- find_schema: look for a schema
SELECT 1 FROM pg_namespace WHERE nspname = %(schema)s

-- indexes_of: the names of a table's indexes
SELECT c.relname FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
WHERE i.indrelid = to_regclass(%(table)s)

-- make_registry: make the table that says which tables are rootcellar's, and of which version
CREATE TABLE IF NOT EXISTS {registry} (
    task_table   text PRIMARY KEY,
    group_table  text NOT NULL,
    version      integer NOT NULL,
    old_task     text,
    old_group    text,
    old_keep     double precision,
    date_made    timestamptz NOT NULL DEFAULT now()
)

-- read_registry: the version of our tables, and Celery's tables if they were adopted
SELECT version, old_task, old_group, old_keep FROM {registry} WHERE task_table = %(task)s

-- register: note the version of our tables
INSERT INTO {registry} AS r (task_table, group_table, version, old_task, old_group, old_keep)
VALUES (%(task)s, %(group)s, %(version)s, %(old_task)s, %(old_group)s, %(keep)s)
ON CONFLICT (task_table) DO UPDATE SET version = excluded.version

-- register_literally: the same, for a DBA's script
INSERT INTO {registry} (task_table, group_table, version)
VALUES ({task_literal}, {group_literal}, {version_literal})

-- unregister: forget tables that were dropped
DELETE FROM {registry} WHERE task_table = %(task)s

-- count_registered: how many tables are registered
SELECT count(*) FROM {registry}

-- columns_of: the names of a table's columns
SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%(table)s) AND attnum > 0 AND NOT attisdropped

-- count_task: how many results of tasks there are
SELECT count(*) FROM {task}

-- count_group: how many groups were saved
SELECT count(*) FROM {group}
