-- Results of tasks and of groups. Dates are UTC. Texts are compared byte for byte: 'a' and 'A' are different ids.
CREATE TABLE IF NOT EXISTS {task} (
    task_id         VARCHAR(255) NOT NULL PRIMARY KEY,
    status          VARCHAR(255) NOT NULL,
    result          LONGTEXT,
    date_done       DATETIME(6),
    traceback       LONGTEXT,
    name            TEXT,
    args            LONGTEXT,
    kwargs          LONGTEXT,
    worker          TEXT,
    retries         INT,
    queue           TEXT,
    children        LONGTEXT,
    stamps          LONGTEXT,
    group_id        TEXT,
    group_index     INT,
    parent_id       TEXT,
    root_id         TEXT,
    date_sent       DATETIME(6),
    date_started    DATETIME(6),
    expires_at      DATETIME(6),
    -- the exact bytes of a value that a text column cannot hold: NaN, NUL, other serializers, compressed, encrypted
    result_exact    LONGBLOB,
    args_exact      LONGBLOB,
    kwargs_exact    LONGBLOB,
    children_exact  LONGBLOB,
    stamps_exact    LONGBLOB,
    -- which call stored this row
    put_id          BIGINT UNSIGNED NOT NULL,
    INDEX {task_date_done_index} (date_done),
    INDEX {task_name_index} (name(190), date_done),
    INDEX {task_expires_index} (expires_at),
    INDEX {task_status_index} (status(32), date_done)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS {group} (
    taskset_id    VARCHAR(255) NOT NULL PRIMARY KEY,
    result        LONGTEXT,
    result_exact  LONGBLOB,
    date_done     DATETIME(6),
    expires_at    DATETIME(6),
    INDEX {group_expires_index} (expires_at)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
