-- What must not be deleted, and who placed and released each hold. A hold is released, never deleted.
CREATE TABLE {hold} (
    id           INTEGER PRIMARY KEY,
    filter       TEXT NOT NULL,
    reason       TEXT NOT NULL,
    placed_by    TEXT NOT NULL,
    placed_at    TEXT NOT NULL,
    released_by  TEXT,
    released_at  TEXT
);

-- the last run of each job of maintenance, such as the cleanup
CREATE TABLE {job} (
    name          TEXT PRIMARY KEY,
    started_at    TEXT NOT NULL,
    ended_at      TEXT,
    succeeded_at  TEXT,
    seconds       REAL,
    ok            INTEGER,
    done          INTEGER NOT NULL,
    note          TEXT
);

-- how large each table was on each day
CREATE TABLE {size} (
    day    TEXT NOT NULL,
    name   TEXT NOT NULL,
    n      INTEGER,
    bytes  INTEGER NOT NULL,
    PRIMARY KEY (day, name)
);

-- the manifest of the archive: one row for each file
CREATE TABLE {archive} (
    id          INTEGER PRIMARY KEY,
    location    TEXT NOT NULL,
    path        TEXT NOT NULL UNIQUE,
    day         TEXT NOT NULL,
    n           INTEGER NOT NULL,
    bytes       INTEGER NOT NULL,
    sha256      TEXT NOT NULL,
    first_done  TEXT,
    last_done   TEXT,
    expires_at  TEXT,
    state       TEXT NOT NULL,
    created_at  TEXT NOT NULL,
    changed_at  TEXT NOT NULL,
    void        BLOB
);

-- where each archived result is: the hash of its id, the file and the row in it. The second index is for a file
-- that is deleted
CREATE TABLE {archived} (
    id_hash  INTEGER NOT NULL,
    file     INTEGER NOT NULL,
    place    INTEGER NOT NULL,
    PRIMARY KEY (id_hash, file, place)
) WITHOUT ROWID;
CREATE INDEX {archived_file_index} ON {archived} (file);
