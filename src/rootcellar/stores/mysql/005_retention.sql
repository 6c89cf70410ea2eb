-- What must not be deleted, and who placed and released each hold. A hold is released, never deleted.
CREATE TABLE IF NOT EXISTS {hold} (
    id           BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    filter       TEXT NOT NULL,
    reason       TEXT NOT NULL,
    placed_by    TEXT NOT NULL,
    placed_at    DATETIME(6) NOT NULL,
    released_by  TEXT,
    released_at  DATETIME(6)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- the last run of each job of maintenance, such as the cleanup
CREATE TABLE IF NOT EXISTS {job} (
    name          VARCHAR(64) NOT NULL PRIMARY KEY,
    started_at    DATETIME(6) NOT NULL,
    ended_at      DATETIME(6),
    succeeded_at  DATETIME(6),
    seconds       DOUBLE,
    ok            SMALLINT,
    done          BIGINT NOT NULL,
    note          TEXT
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- how large each table was on each day
CREATE TABLE IF NOT EXISTS {size} (
    day    DATE NOT NULL,
    name   VARCHAR(255) NOT NULL,
    n      BIGINT,
    bytes  BIGINT NOT NULL,
    PRIMARY KEY (day, name)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- the manifest of the archive: one row for each file
CREATE TABLE IF NOT EXISTS {archive} (
    id          BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    location    TEXT NOT NULL,
    path        VARCHAR(255) NOT NULL UNIQUE,
    day         DATE NOT NULL,
    n           BIGINT NOT NULL,
    bytes       BIGINT NOT NULL,
    sha256      TEXT NOT NULL,
    first_done  DATETIME(6),
    last_done   DATETIME(6),
    expires_at  DATETIME(6),
    state       TEXT NOT NULL,
    created_at  DATETIME(6) NOT NULL,
    changed_at  DATETIME(6) NOT NULL,
    void        LONGBLOB
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- where each archived result is: the hash of its id, the file and the row in it. The second index is for a file
-- that is deleted
CREATE TABLE IF NOT EXISTS {archived} (
    id_hash  BIGINT NOT NULL,
    file     INT NOT NULL,
    place    INT NOT NULL,
    PRIMARY KEY (id_hash, file, place),
    INDEX {archived_file_index} (file)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
