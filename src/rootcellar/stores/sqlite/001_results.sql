-- Results of tasks and of groups. Dates are UTC as 'YYYY-MM-DD HH:MM:SS.ffffff', which sorts and which SQLite's date
-- functions read.
CREATE TABLE {task} (
    task_id         TEXT PRIMARY KEY,
    status          TEXT NOT NULL,
    result          TEXT,
    date_done       TEXT,
    traceback       TEXT,
    name            TEXT,
    args            TEXT,
    kwargs          TEXT,
    worker          TEXT,
    retries         INTEGER,
    queue           TEXT,
    children        TEXT,
    stamps          TEXT,
    group_id        TEXT,
    group_index     INTEGER,
    parent_id       TEXT,
    root_id         TEXT,
    date_sent       TEXT,
    date_started    TEXT,
    expires_at      TEXT,
    -- the exact bytes of a value that a text column cannot hold: NaN, NUL, other serializers, compressed, encrypted
    result_exact    BLOB,
    args_exact      BLOB,
    kwargs_exact    BLOB,
    children_exact  BLOB,
    stamps_exact    BLOB
);
CREATE INDEX {task_date_done_index} ON {task} (date_done);
CREATE INDEX {task_name_index} ON {task} (name, date_done);
CREATE INDEX {task_expires_index} ON {task} (expires_at);
CREATE INDEX {task_failures_index} ON {task} (date_done) WHERE status IN ('FAILURE', 'REVOKED');

CREATE TABLE {group} (
    taskset_id    TEXT PRIMARY KEY,
    result        TEXT,
    result_exact  BLOB,
    date_done     TEXT,
    expires_at    TEXT
);
CREATE INDEX {group_expires_index} ON {group} (expires_at);
