-- What was forgotten, so that a late copy from the other store of a migration does not bring it back.
-- fingerprints: 16 bytes of each result that was forgotten
CREATE TABLE IF NOT EXISTS {buried} (
    task_id       VARCHAR(255) NOT NULL PRIMARY KEY,
    buried_at     DATETIME(6) NOT NULL,
    done_at       DATETIME(6),
    fingerprints  VARBINARY(2048) NOT NULL,
    INDEX {buried_at_index} (buried_at)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- small values that all processes share, such as the phase of a migration
CREATE TABLE IF NOT EXISTS {shared} (
    name        VARCHAR(500) NOT NULL PRIMARY KEY,
    value       LONGTEXT NOT NULL,
    version     BIGINT NOT NULL,
    changed_at  DATETIME(6) NOT NULL
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
