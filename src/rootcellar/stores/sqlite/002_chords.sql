-- Chords that are not finished, and their parts that were counted.
CREATE TABLE {chord} (
    group_id       TEXT PRIMARY KEY,
    size           INTEGER,
    extra          INTEGER NOT NULL DEFAULT 0,
    counted        INTEGER NOT NULL DEFAULT 0,
    owner          TEXT,
    body           BLOB,
    header         BLOB,
    claimed_by     TEXT,
    claimed_until  REAL,
    date_done      TEXT,
    expires_at     TEXT
);
CREATE INDEX {chord_open_index} ON {chord} (claimed_until) WHERE date_done IS NULL;

CREATE TABLE {part} (
    group_id     TEXT NOT NULL,
    task_id      TEXT NOT NULL,
    -- -1 for a part without an index; -2 for the idempotency key of an added part, which is not a part
    group_index  INTEGER NOT NULL,
    status       TEXT NOT NULL,
    result       BLOB,
    PRIMARY KEY (group_id, task_id, group_index)
);
