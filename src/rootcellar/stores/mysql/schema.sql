-- lock: let one create, upgrade or adopt at a time
SELECT GET_LOCK(CONCAT('rootcellar.', SHA1(DATABASE())), %(seconds)s)

-- unlock: let the next one
SELECT RELEASE_LOCK(CONCAT('rootcellar.', SHA1(DATABASE())))

-- look: see whether there is a table
SELECT 1 FROM {table} LIMIT 0

-- make_registry: make the table that says which tables are rootcellar's, and of which version
CREATE TABLE IF NOT EXISTS {registry} (
    task_table   VARCHAR(64) NOT NULL PRIMARY KEY,
    group_table  VARCHAR(64) NOT NULL,
    version      INT NOT NULL,
    old_task     TEXT,
    old_group    TEXT,
    old_keep     DOUBLE,
    date_made    TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin

-- read_registry: the version of our tables, and Celery's tables if they were adopted
SELECT version, old_task, old_group, old_keep FROM {registry} WHERE task_table = %(task)s

-- register: note the version of our tables
INSERT INTO {registry} (task_table, group_table, version, old_task, old_group, old_keep)
VALUES (%(task)s, %(group)s, %(version)s, %(old_task)s, %(old_group)s, %(keep)s)
ON DUPLICATE KEY UPDATE version = VALUES(version)

-- register_literally: the same, for a DBA's script
INSERT INTO {registry} (task_table, group_table, version)
VALUES ({task_literal}, {group_literal}, {version_literal})

-- unregister: forget tables that were dropped
DELETE FROM {registry} WHERE task_table = %(task)s

-- count_registered: how many tables are registered
SELECT count(*) FROM {registry}

-- columns_of: the names of a table's columns, and more
SHOW COLUMNS FROM {table}

-- count_task: how many results of tasks there are
SELECT count(*) FROM {task}

-- count_group: how many groups were saved
SELECT count(*) FROM {group}
