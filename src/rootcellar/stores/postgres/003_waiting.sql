-- Who waits for which result. Unlogged: a crash or a promotion empties them, and every waiter registers anew.
CREATE UNLOGGED TABLE {listener} (
    id     integer PRIMARY KEY,
    armed  boolean NOT NULL
);

CREATE UNLOGGED TABLE {waiter} (
    task_id   text NOT NULL,
    listener  integer NOT NULL,
    -- what it is told: 0 the record once it is ready, 1 that it is ready, 2 the record at every change
    kind      smallint NOT NULL,
    PRIMARY KEY (task_id, listener)
);
