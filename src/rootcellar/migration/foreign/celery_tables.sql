-- The tables that Celery 5.7 makes with result_extended, each once for each database.

-- postgres_task_ids: Celery takes the numbers of its rows from here.
CREATE SEQUENCE IF NOT EXISTS {task_ids}

-- postgres_group_ids: The same for groups.
CREATE SEQUENCE IF NOT EXISTS {group_ids}

-- postgres_tasks: One row for each task.
CREATE TABLE IF NOT EXISTS {task} (
    id INTEGER NOT NULL PRIMARY KEY,
    task_id VARCHAR(155) UNIQUE,
    status VARCHAR(50),
    result BYTEA,
    date_done TIMESTAMP WITHOUT TIME ZONE,
    traceback TEXT,
    children BYTEA,
    name VARCHAR(155),
    args BYTEA,
    kwargs BYTEA,
    worker VARCHAR(155),
    retries INTEGER,
    queue VARCHAR(155),
    stamps BYTEA
)

-- postgres_task_dates: Celery's cleanup finds old rows by it.
CREATE INDEX IF NOT EXISTS {task_index} ON {task} (date_done)

-- postgres_groups: One row for each saved group.
CREATE TABLE IF NOT EXISTS {group} (
    id INTEGER NOT NULL PRIMARY KEY,
    taskset_id VARCHAR(155) UNIQUE,
    result BYTEA,
    date_done TIMESTAMP WITHOUT TIME ZONE
)

-- postgres_group_dates: Celery's cleanup finds old rows by it.
CREATE INDEX IF NOT EXISTS {group_index} ON {group} (date_done)

-- mysql_tasks: One row for each task.
CREATE TABLE IF NOT EXISTS {task} (
    id INTEGER NOT NULL AUTO_INCREMENT PRIMARY KEY,
    task_id VARCHAR(155) UNIQUE,
    status VARCHAR(50),
    result BLOB,
    date_done DATETIME,
    traceback TEXT,
    children BLOB,
    name VARCHAR(155),
    args BLOB,
    kwargs BLOB,
    worker VARCHAR(155),
    retries INTEGER,
    queue VARCHAR(155),
    stamps BLOB,
    INDEX {task_index} (date_done)
)

-- mysql_groups: One row for each saved group.
CREATE TABLE IF NOT EXISTS {group} (
    id INTEGER NOT NULL AUTO_INCREMENT PRIMARY KEY,
    taskset_id VARCHAR(155) UNIQUE,
    result BLOB,
    date_done DATETIME,
    INDEX {group_index} (date_done)
)

-- mariadb_task_ids: SQLAlchemy takes the numbers of rows from here.
CREATE SEQUENCE IF NOT EXISTS {task_ids}

-- mariadb_group_ids: The same for groups.
CREATE SEQUENCE IF NOT EXISTS {group_ids}

-- mariadb_tasks: One row for each task.
CREATE TABLE IF NOT EXISTS {task} (
    id INTEGER NOT NULL PRIMARY KEY,
    task_id VARCHAR(155) UNIQUE,
    status VARCHAR(50),
    result BLOB,
    date_done DATETIME,
    traceback TEXT,
    children BLOB,
    name VARCHAR(155),
    args BLOB,
    kwargs BLOB,
    worker VARCHAR(155),
    retries INTEGER,
    queue VARCHAR(155),
    stamps BLOB,
    INDEX {task_index} (date_done)
)

-- mariadb_groups: One row for each saved group.
CREATE TABLE IF NOT EXISTS {group} (
    id INTEGER NOT NULL PRIMARY KEY,
    taskset_id VARCHAR(155) UNIQUE,
    result BLOB,
    date_done DATETIME,
    INDEX {group_index} (date_done)
)

-- sqlite_tasks: One row for each task.
CREATE TABLE IF NOT EXISTS {task} (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    task_id VARCHAR(155) UNIQUE,
    status VARCHAR(50),
    result BLOB,
    date_done DATETIME,
    traceback TEXT,
    children BLOB,
    name VARCHAR(155),
    args BLOB,
    kwargs BLOB,
    worker VARCHAR(155),
    retries INTEGER,
    queue VARCHAR(155),
    stamps BLOB
)

-- sqlite_task_dates: Celery's cleanup finds old rows by it.
CREATE INDEX IF NOT EXISTS {task_index} ON {task} (date_done)

-- sqlite_groups: One row for each saved group.
CREATE TABLE IF NOT EXISTS {group} (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    taskset_id VARCHAR(155) UNIQUE,
    result BLOB,
    date_done DATETIME
)

-- sqlite_group_dates: Celery's cleanup finds old rows by it.
CREATE INDEX IF NOT EXISTS {group_index} ON {group} (date_done)
