-- Which process waits for which result. Unlogged: a crash or a promotion empties the tables, and every process registers
-- again.
CREATE UNLOGGED TABLE {listener} (
    id     integer PRIMARY KEY,
    armed  boolean NOT NULL
);

CREATE UNLOGGED TABLE {waiter} (
    task_id   text NOT NULL,
    listener  integer NOT NULL,
    -- what the listener is sent: 0 the record when it is ready, 1 the id when it is ready, 2 the record at every change
    kind      smallint NOT NULL,
    PRIMARY KEY (task_id, listener)
);
