-- tables: return the names of all tables
SELECT name FROM sqlite_master WHERE type = 'table'

-- make_registry: create the table that lists rootcellar's tables and their versions
CREATE TABLE IF NOT EXISTS {registry} (
    task_table   TEXT PRIMARY KEY,
    group_table  TEXT NOT NULL,
    version      INTEGER NOT NULL,
    old_task     TEXT,
    old_group    TEXT,
    old_keep     REAL
)

-- read_registry: return the version of our tables, and Celery's tables if they were adopted
SELECT version, old_task, old_group, old_keep FROM {registry} WHERE task_table = :task

-- register: store the version of our tables
INSERT INTO {registry} (task_table, group_table, version, old_task, old_group, old_keep)
VALUES (:task, :group, :version, :old_task, :old_group, :keep)
ON CONFLICT (task_table) DO UPDATE SET version = excluded.version

-- register_literally: the same, for a script
INSERT INTO {registry} (task_table, group_table, version)
VALUES ({task_literal}, {group_literal}, {version_literal})

-- unregister: delete the entry of tables that were dropped
DELETE FROM {registry} WHERE task_table = :task

-- count_registered: count the registered tables
SELECT count(*) FROM {registry}

-- columns_of: return the names of a table's columns
SELECT name FROM pragma_table_info(:table)

-- count_task: count the results of tasks
SELECT count(*) FROM {task}

-- count_group: count the saved groups
SELECT count(*) FROM {group}

-- count_holds: count the holds that are active
SELECT count(*) FROM {hold} WHERE released_at IS NULL
