-- What a migration to or from another store needs.

-- results that were forgotten: a late copy from the other store does not bring them back
CREATE TABLE {buried} (
    task_id       text PRIMARY KEY,
    buried_at     timestamptz NOT NULL,
    -- the latest end of what was forgotten
    done_at       timestamptz,
    -- the fingerprints of what was forgotten one after the other, each of 16 bytes, the latest last
    fingerprints  bytea NOT NULL
);
CREATE INDEX {buried_at_index} ON {buried} (buried_at);

-- small values that all processes share, such as the phase of a migration
CREATE TABLE {shared} (
    name        text COLLATE "C" PRIMARY KEY,
    value       text NOT NULL,
    version     bigint NOT NULL,
    changed_at  timestamptz NOT NULL
);
