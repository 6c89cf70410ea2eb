-- Counts of finished tasks beside the rows. Dates are the begin of a minute, an hour or a day in UTC.

-- part: 0 and 1 the rows that exist and those that were deleted; 2 and 3 the same of all names and queues together
-- steps: a JSON list: the number of the first step, then how many durations are in each step from there
CREATE TABLE {minute} (
    id          INTEGER PRIMARY KEY,
    start       TEXT NOT NULL,
    part        INTEGER NOT NULL,
    name        TEXT NOT NULL,
    queue       TEXT NOT NULL,
    status      TEXT NOT NULL,
    n           INTEGER NOT NULL,
    retries     INTEGER NOT NULL,
    run_n       INTEGER NOT NULL,
    run_sum     REAL NOT NULL,
    run_max     REAL NOT NULL,
    run_steps   TEXT NOT NULL,
    wait_n      INTEGER NOT NULL,
    wait_sum    REAL NOT NULL,
    wait_max    REAL NOT NULL,
    wait_steps  TEXT NOT NULL
);
CREATE INDEX {minute_index} ON {minute} (start, part);

CREATE TABLE {hour} (
    id          INTEGER PRIMARY KEY,
    start       TEXT NOT NULL,
    part        INTEGER NOT NULL,
    name        TEXT NOT NULL,
    queue       TEXT NOT NULL,
    status      TEXT NOT NULL,
    n           INTEGER NOT NULL,
    retries     INTEGER NOT NULL,
    run_n       INTEGER NOT NULL,
    run_sum     REAL NOT NULL,
    run_max     REAL NOT NULL,
    run_steps   TEXT NOT NULL,
    wait_n      INTEGER NOT NULL,
    wait_sum    REAL NOT NULL,
    wait_max    REAL NOT NULL,
    wait_steps  TEXT NOT NULL
);
CREATE INDEX {hour_index} ON {hour} (start, part);
CREATE INDEX {hour_name_index} ON {hour} (name, start);

CREATE TABLE {day} (
    id          INTEGER PRIMARY KEY,
    start       TEXT NOT NULL,
    part        INTEGER NOT NULL,
    name        TEXT NOT NULL,
    queue       TEXT NOT NULL,
    status      TEXT NOT NULL,
    n           INTEGER NOT NULL,
    retries     INTEGER NOT NULL,
    run_n       INTEGER NOT NULL,
    run_sum     REAL NOT NULL,
    run_max     REAL NOT NULL,
    run_steps   TEXT NOT NULL,
    wait_n      INTEGER NOT NULL,
    wait_sum    REAL NOT NULL,
    wait_max    REAL NOT NULL,
    wait_steps  TEXT NOT NULL
);
CREATE INDEX {day_index} ON {day} (start, part);

CREATE TABLE {failure_hour} (
    id             INTEGER PRIMARY KEY,
    start          TEXT NOT NULL,
    part           INTEGER NOT NULL,
    failure_group  INTEGER NOT NULL,
    name           TEXT NOT NULL,
    n              INTEGER NOT NULL
);
CREATE INDEX {failure_hour_index} ON {failure_hour} (start, part);
CREATE INDEX {failure_hour_group_index} ON {failure_hour} (failure_group, start);

-- groups of failures; type, place and template are NULL until they are computed; the last four columns are a person's
CREATE TABLE {failure} (
    failure_group  INTEGER PRIMARY KEY,
    first_seen     TEXT NOT NULL,
    last_seen      TEXT NOT NULL,
    example        TEXT NOT NULL,
    type           TEXT,
    place          TEXT,
    template       TEXT,
    mark           TEXT,
    marked_at      TEXT,
    muted_until    TEXT,
    note           TEXT
);

-- kind: task, queue or worker
CREATE TABLE {name} (
    kind       TEXT NOT NULL,
    name       TEXT NOT NULL,
    last_seen  TEXT NOT NULL,
    PRIMARY KEY (kind, name)
);

-- what was counted of rows that were deleted, until it is added to the cells
CREATE TABLE {gone} (
    id             INTEGER PRIMARY KEY,
    start          TEXT NOT NULL,
    is_hour        INTEGER NOT NULL,
    name           TEXT NOT NULL,
    queue          TEXT NOT NULL,
    status         TEXT NOT NULL,
    failure_group  INTEGER,
    run_step       INTEGER,
    wait_step      INTEGER,
    n              INTEGER NOT NULL,
    retries        INTEGER NOT NULL,
    run_sum        REAL,
    run_max        REAL,
    wait_sum       REAL,
    wait_max       REAL,
    first_done     TEXT NOT NULL,
    last_done      TEXT NOT NULL,
    example        TEXT
);
CREATE INDEX {gone_index} ON {gone} (start);

-- minutes, or whole hours, that must be counted again
CREATE TABLE {dirty} (
    id       INTEGER PRIMARY KEY,
    start    TEXT NOT NULL,
    is_hour  INTEGER NOT NULL
);

-- one row: what is counted
CREATE TABLE {roll} (
    id            INTEGER PRIMARY KEY,
    version       INTEGER NOT NULL,
    system_id     TEXT,
    horizon       INTEGER,
    passed_at     TEXT,
    recounted_at  TEXT,
    minutes_from  TEXT,
    hours_from    TEXT,
    hours_until   TEXT,
    days_from     TEXT,
    days_until    TEXT
);
INSERT INTO {roll} (id, version) VALUES (1, 0);
