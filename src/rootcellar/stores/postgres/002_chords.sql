-- Chords that are not finished, and their parts that were counted.
CREATE TABLE {chord} (
    group_id       text PRIMARY KEY,
    size           integer,
    extra          integer NOT NULL DEFAULT 0,
    counted        integer NOT NULL DEFAULT 0,
    owner          text,
    body           bytea,
    header         bytea,
    claimed_by     text,
    claimed_until  timestamptz,
    date_created   timestamptz NOT NULL DEFAULT now(),
    date_done      timestamptz,
    expires_at     timestamptz
);
CREATE INDEX {chord_open_index} ON {chord} (claimed_until) WHERE date_done IS NULL;

CREATE TABLE {part} (
    group_id     text NOT NULL,
    task_id      text NOT NULL,
    -- -1 for a part without an index; -2 for the idempotency key of an added part, which is not a part
    group_index  integer NOT NULL,
    status       text NOT NULL,
    result       bytea,
    PRIMARY KEY (group_id, task_id, group_index)
);
