-- lock: let one process at a time create, upgrade or adopt
SELECT GET_LOCK(CONCAT('rootcellar.', SHA1(DATABASE())), %(seconds)s)

-- unlock: let the next process do so
SELECT RELEASE_LOCK(CONCAT('rootcellar.', SHA1(DATABASE())))

-- probe_table: fail if the table does not exist
SELECT 1 FROM {table} LIMIT 0

-- make_registry: create the table that lists rootcellar's tables and their versions
CREATE TABLE IF NOT EXISTS {registry} (
    task_table   VARCHAR(64) NOT NULL PRIMARY KEY,
    group_table  VARCHAR(64) NOT NULL,
    version      INT NOT NULL,
    old_task     TEXT,
    old_group    TEXT,
    old_keep     DOUBLE,
    date_made    TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin

-- read_registry: return the version of our tables, and Celery's tables if they were adopted
SELECT version, old_task, old_group, old_keep FROM {registry} WHERE task_table = %(task)s

-- register: store the version of our tables
INSERT INTO {registry} (task_table, group_table, version, old_task, old_group, old_keep)
VALUES (%(task)s, %(group)s, %(version)s, %(old_task)s, %(old_group)s, %(keep)s)
ON DUPLICATE KEY UPDATE version = VALUES(version)

-- register_literally: the same, for a DBA's script
INSERT INTO {registry} (task_table, group_table, version)
VALUES ({task_literal}, {group_literal}, {version_literal})

-- unregister: delete the entry of tables that were dropped
DELETE FROM {registry} WHERE task_table = %(task)s

-- count_registered: count the registered tables
SELECT count(*) FROM {registry}

-- columns_of: return the names of a table's columns, with their types
SHOW COLUMNS FROM {table}

-- count_task: count the results of tasks
SELECT count(*) FROM {task}

-- count_group: count the saved groups
SELECT count(*) FROM {group}

-- count_holds: count the holds that are active
SELECT count(*) FROM {hold} WHERE released_at IS NULL
