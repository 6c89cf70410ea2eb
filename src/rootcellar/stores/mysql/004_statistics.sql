-- Counts of finished tasks beside the rows. Dates are the begin of a minute, an hour or a day in UTC.

-- part: 0 and 1 the rows that exist and those that were deleted; 2 and 3 the same of all names and queues together
-- steps: a JSON list: the number of the first step, then how many durations are in each step from there
CREATE TABLE IF NOT EXISTS {minute} (
    id          BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    start       DATETIME(6) NOT NULL,
    part        SMALLINT NOT NULL,
    name        TEXT NOT NULL,
    queue       TEXT NOT NULL,
    status      TEXT NOT NULL,
    n           BIGINT NOT NULL,
    retries     BIGINT NOT NULL,
    run_n       BIGINT NOT NULL,
    run_sum     DOUBLE NOT NULL,
    run_max     DOUBLE NOT NULL,
    run_steps   TEXT NOT NULL,
    wait_n      BIGINT NOT NULL,
    wait_sum    DOUBLE NOT NULL,
    wait_max    DOUBLE NOT NULL,
    wait_steps  TEXT NOT NULL,
    INDEX {minute_index} (start, part)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS {hour} (
    id          BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    start       DATETIME(6) NOT NULL,
    part        SMALLINT NOT NULL,
    name        TEXT NOT NULL,
    queue       TEXT NOT NULL,
    status      TEXT NOT NULL,
    n           BIGINT NOT NULL,
    retries     BIGINT NOT NULL,
    run_n       BIGINT NOT NULL,
    run_sum     DOUBLE NOT NULL,
    run_max     DOUBLE NOT NULL,
    run_steps   TEXT NOT NULL,
    wait_n      BIGINT NOT NULL,
    wait_sum    DOUBLE NOT NULL,
    wait_max    DOUBLE NOT NULL,
    wait_steps  TEXT NOT NULL,
    INDEX {hour_index} (start, part),
    INDEX {hour_name_index} (name(190), start)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS {day} (
    id          BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    start       DATETIME(6) NOT NULL,
    part        SMALLINT NOT NULL,
    name        TEXT NOT NULL,
    queue       TEXT NOT NULL,
    status      TEXT NOT NULL,
    n           BIGINT NOT NULL,
    retries     BIGINT NOT NULL,
    run_n       BIGINT NOT NULL,
    run_sum     DOUBLE NOT NULL,
    run_max     DOUBLE NOT NULL,
    run_steps   TEXT NOT NULL,
    wait_n      BIGINT NOT NULL,
    wait_sum    DOUBLE NOT NULL,
    wait_max    DOUBLE NOT NULL,
    wait_steps  TEXT NOT NULL,
    INDEX {day_index} (start, part)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS {failure_hour} (
    id             BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    start          DATETIME(6) NOT NULL,
    part           SMALLINT NOT NULL,
    failure_group  BIGINT NOT NULL,
    name           TEXT NOT NULL,
    n              BIGINT NOT NULL,
    INDEX {failure_hour_index} (start, part),
    INDEX {failure_hour_group_index} (failure_group, start)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- groups of failures; type, place and template are NULL until they are computed; the last four columns are a person's
CREATE TABLE IF NOT EXISTS {failure} (
    failure_group  BIGINT PRIMARY KEY,
    first_seen     DATETIME(6) NOT NULL,
    last_seen      DATETIME(6) NOT NULL,
    example        TEXT NOT NULL,
    type           TEXT,
    place          TEXT,
    template       TEXT,
    mark           TEXT,
    marked_at      DATETIME(6),
    muted_until    DATETIME(6),
    note           TEXT
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- kind: task, queue or worker
CREATE TABLE IF NOT EXISTS {name} (
    kind       VARCHAR(16) NOT NULL,
    -- the bytes of the text: a longer name is not kept
    name       VARBINARY(700) NOT NULL,
    last_seen  DATETIME(6) NOT NULL,
    PRIMARY KEY (kind, name)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- what was counted of rows that were deleted, until it is added to the cells
CREATE TABLE IF NOT EXISTS {gone} (
    id             BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    start          DATETIME(6) NOT NULL,
    is_hour        BOOLEAN NOT NULL,
    name           TEXT NOT NULL,
    queue          TEXT NOT NULL,
    status         TEXT NOT NULL,
    failure_group  BIGINT,
    run_step       INT,
    wait_step      INT,
    n              BIGINT NOT NULL,
    retries        BIGINT NOT NULL,
    run_sum        DOUBLE,
    run_max        DOUBLE,
    wait_sum       DOUBLE,
    wait_max       DOUBLE,
    first_done     DATETIME(6) NOT NULL,
    last_done      DATETIME(6) NOT NULL,
    example        TEXT,
    INDEX {gone_index} (start)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- minutes, or whole hours, that must be counted again
CREATE TABLE IF NOT EXISTS {dirty} (
    id       BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    start    DATETIME(6) NOT NULL,
    is_hour  BOOLEAN NOT NULL
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- one row: what is counted
CREATE TABLE IF NOT EXISTS {roll} (
    id            SMALLINT PRIMARY KEY,
    version       INT NOT NULL,
    system_id     TEXT,
    horizon       BIGINT,
    passed_at     DATETIME(6),
    recounted_at  DATETIME(6),
    minutes_from  DATETIME(6),
    hours_from    DATETIME(6),
    hours_until   DATETIME(6),
    days_from     DATETIME(6),
    days_until    DATETIME(6)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
INSERT IGNORE INTO {roll} (id, version) VALUES (1, 0);
