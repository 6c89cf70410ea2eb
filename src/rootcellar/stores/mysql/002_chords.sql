-- Chords that are not finished, and their parts that were counted.
CREATE TABLE IF NOT EXISTS {chord} (
    group_id       VARCHAR(255) NOT NULL PRIMARY KEY,
    size           INT,
    extra          INT NOT NULL DEFAULT 0,
    counted        INT NOT NULL DEFAULT 0,
    owner          VARCHAR(255),
    body           LONGBLOB,
    header         LONGBLOB,
    claimed_by     TEXT,
    claimed_until  DATETIME(6),
    date_done      DATETIME(6),
    expires_at     DATETIME(6),
    INDEX {chord_open_index} (date_done, claimed_until),
    INDEX {chord_expires_index} (expires_at)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS {part} (
    group_id     VARCHAR(255) NOT NULL,
    task_id      VARCHAR(255) NOT NULL,
    -- -1 for a part without an index; -2 for the idempotency key of an added part, which is not a part
    group_index  INT NOT NULL,
    status       VARCHAR(255) NOT NULL,
    result       LONGBLOB,
    PRIMARY KEY (group_id, task_id, group_index)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
