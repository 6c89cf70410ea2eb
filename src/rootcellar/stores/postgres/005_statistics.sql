-- Counts of finished tasks beside the rows. Dates are the begin of a minute, an hour or a day in UTC.

-- the hours in which a row was done before it was stored again: they are counted again without it
ALTER TABLE {task} ADD COLUMN was_done timestamptz[];

-- part: 0 and 1 the rows that exist and those that were deleted; 2 and 3 the same of all names and queues together
-- steps: a JSON list: the number of the first step, then how many durations are in each step from there
CREATE TABLE {minute} (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    start       timestamptz NOT NULL,
    part        smallint NOT NULL,
    name        text NOT NULL,
    queue       text NOT NULL,
    status      text NOT NULL,
    n           bigint NOT NULL,
    retries     bigint NOT NULL,
    run_n       bigint NOT NULL,
    run_sum     double precision NOT NULL,
    run_max     double precision NOT NULL,
    run_steps   text NOT NULL,
    wait_n      bigint NOT NULL,
    wait_sum    double precision NOT NULL,
    wait_max    double precision NOT NULL,
    wait_steps  text NOT NULL
);
CREATE INDEX {minute_index} ON {minute} (start, part);

CREATE TABLE {hour} (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    start       timestamptz NOT NULL,
    part        smallint NOT NULL,
    name        text NOT NULL,
    queue       text NOT NULL,
    status      text NOT NULL,
    n           bigint NOT NULL,
    retries     bigint NOT NULL,
    run_n       bigint NOT NULL,
    run_sum     double precision NOT NULL,
    run_max     double precision NOT NULL,
    run_steps   text NOT NULL,
    wait_n      bigint NOT NULL,
    wait_sum    double precision NOT NULL,
    wait_max    double precision NOT NULL,
    wait_steps  text NOT NULL
);
CREATE INDEX {hour_index} ON {hour} (start, part);
CREATE INDEX {hour_name_index} ON {hour} (name, start);

CREATE TABLE {day} (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    start       timestamptz NOT NULL,
    part        smallint NOT NULL,
    name        text NOT NULL,
    queue       text NOT NULL,
    status      text NOT NULL,
    n           bigint NOT NULL,
    retries     bigint NOT NULL,
    run_n       bigint NOT NULL,
    run_sum     double precision NOT NULL,
    run_max     double precision NOT NULL,
    run_steps   text NOT NULL,
    wait_n      bigint NOT NULL,
    wait_sum    double precision NOT NULL,
    wait_max    double precision NOT NULL,
    wait_steps  text NOT NULL
);
CREATE INDEX {day_index} ON {day} (start, part);

CREATE TABLE {failure_hour} (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    start          timestamptz NOT NULL,
    part           smallint NOT NULL,
    failure_group  bigint NOT NULL,
    name           text NOT NULL,
    n              bigint NOT NULL
);
CREATE INDEX {failure_hour_index} ON {failure_hour} (start, part);
CREATE INDEX {failure_hour_group_index} ON {failure_hour} (failure_group, start);

-- groups of failures; type, place and template are NULL until they are computed; the last four columns are a person's
CREATE TABLE {failure} (
    failure_group  bigint PRIMARY KEY,
    first_seen     timestamptz NOT NULL,
    last_seen      timestamptz NOT NULL,
    example        text NOT NULL,
    type           text,
    place          text,
    template       text,
    mark           text,
    marked_at      timestamptz,
    muted_until    timestamptz,
    note           text
);

-- kind: task, queue or worker
CREATE TABLE {name} (
    kind       text NOT NULL,
    name       text NOT NULL,
    last_seen  timestamptz NOT NULL,
    PRIMARY KEY (kind, name)
);

-- what was counted of rows that were deleted, until it is added to the cells
CREATE TABLE {gone} (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    start          timestamptz NOT NULL,
    is_hour        boolean NOT NULL,
    name           text NOT NULL,
    queue          text NOT NULL,
    status         text NOT NULL,
    failure_group  bigint,
    run_step       integer,
    wait_step      integer,
    n              bigint NOT NULL,
    retries        bigint NOT NULL,
    run_sum        double precision,
    run_max        double precision,
    wait_sum       double precision,
    wait_max       double precision,
    first_done     timestamptz NOT NULL,
    last_done      timestamptz NOT NULL,
    example        text
);
CREATE INDEX {gone_index} ON {gone} (start);

-- minutes, or whole hours, that must be counted again
CREATE TABLE {dirty} (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    start    timestamptz NOT NULL,
    is_hour  boolean NOT NULL
);

-- one row: what is counted. Rows whose marker `changed` is not below the horizon are counted again.
CREATE TABLE {roll} (
    id            smallint PRIMARY KEY,
    version       integer NOT NULL,
    system_id     text,
    horizon       bigint,
    passed_at     timestamptz,
    recounted_at  timestamptz,
    minutes_from  timestamptz,
    hours_from    timestamptz,
    hours_until   timestamptz,
    days_from     timestamptz,
    days_until    timestamptz
);
INSERT INTO {roll} (id, version) VALUES (1, 0);
