-- What must not be deleted, and who placed and released each hold. A hold is released, never deleted.
CREATE TABLE {hold} (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    filter       text NOT NULL,
    reason       text NOT NULL,
    placed_by    text NOT NULL,
    placed_at    timestamptz NOT NULL,
    released_by  text,
    released_at  timestamptz
);

-- the last run of each job of maintenance, such as the cleanup
CREATE TABLE {job} (
    name          text PRIMARY KEY,
    started_at    timestamptz NOT NULL,
    ended_at      timestamptz,
    succeeded_at  timestamptz,
    seconds       double precision,
    ok            smallint,
    done          bigint NOT NULL,
    note          text
);

-- how large each table was on each day
CREATE TABLE {size} (
    day    date NOT NULL,
    name   text NOT NULL,
    n      bigint,
    bytes  bigint NOT NULL,
    PRIMARY KEY (day, name)
);

-- the manifest of the archive: one row for each file
CREATE TABLE {archive} (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    location    text NOT NULL,
    path        text NOT NULL UNIQUE,
    day         date NOT NULL,
    n           bigint NOT NULL,
    bytes       bigint NOT NULL,
    sha256      text NOT NULL,
    first_done  timestamptz,
    last_done   timestamptz,
    expires_at  timestamptz,
    state       text NOT NULL,
    created_at  timestamptz NOT NULL,
    changed_at  timestamptz NOT NULL,
    void        bytea
);

-- where each archived result is: the hash of its id, the file and the row in it. The second index is for a file
-- that is deleted
CREATE TABLE {archived} (
    id_hash  bigint NOT NULL,
    file     integer NOT NULL,
    place    integer NOT NULL,
    PRIMARY KEY (id_hash, file, place)
);
CREATE INDEX {archived_file_index} ON {archived} (file);
