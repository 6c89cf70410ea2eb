-- What was forgotten, so that a late copy from the other store of a migration does not bring it back.
-- fingerprints: 16 bytes of each result that was forgotten
CREATE TABLE {buried} (
    task_id       TEXT PRIMARY KEY,
    buried_at     TEXT NOT NULL,
    done_at       TEXT,
    fingerprints  BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX {buried_at_index} ON {buried} (buried_at);

-- small values that all processes share, such as the phase of a migration
CREATE TABLE {shared} (
    name        TEXT PRIMARY KEY,
    value       TEXT NOT NULL,
    version     INTEGER NOT NULL,
    changed_at  TEXT NOT NULL
) WITHOUT ROWID;
