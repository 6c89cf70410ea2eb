-- Results of tasks and of groups.
CREATE TABLE {task} (
    task_id         text PRIMARY KEY,
    status          text NOT NULL,
    result          json,
    date_done       timestamptz,
    traceback       text,
    name            text,
    args            json,
    kwargs          json,
    worker          text,
    retries         integer,
    queue           text,
    children        json,
    stamps          json,
    group_id        text,
    group_index     integer,
    parent_id       text,
    root_id         text,
    date_sent       timestamptz,
    date_started    timestamptz,
    expires_at      timestamptz,
    -- the exact bytes of a value that a json column cannot hold: NaN, NUL, other serializers, compressed, encrypted
    result_exact    bytea,
    args_exact      bytea,
    kwargs_exact    bytea,
    children_exact  bytea,
    stamps_exact    bytea
);
CREATE INDEX {task_date_done_index} ON {task} (date_done);
CREATE INDEX {task_name_index} ON {task} (name, date_done);
CREATE INDEX {task_expires_index} ON {task} (expires_at);
CREATE INDEX {task_failures_index} ON {task} (date_done) WHERE status IN ('FAILURE', 'REVOKED');

CREATE TABLE {group} (
    taskset_id    text PRIMARY KEY,
    result        json,
    result_exact  bytea,
    date_done     timestamptz,
    expires_at    timestamptz
);
CREATE INDEX {group_expires_index} ON {group} (expires_at);
