"""Problems with what every store must do."""

from __future__ import annotations

from rootcellar.checks.register.entry import failure, warning

PROBLEMS = (
    failure(
        "permission-denied",
        "the user may not do all that a worker does",
        why="A worker fails at the first thing that it may not do, perhaps only days later: at a chord, a clean-up.",
        remedy="Grant what is named: `rootcellar schema grants USER` prints the least that a worker needs, for psql or "
        "mysql. docs/redis.md has the ACL rules of a Redis user.",
    ),
    failure(
        "schema-missing",
        "the tables are not there and may not be made",
        why="There is nowhere to store a result. Workers make the tables themselves unless "
        "database_create_tables_at_setup (DB_CREATE_TABLES) is false. Or the tables are in another database or schema.",
        remedy="`rootcellar schema status` says which tables are looked for, and where. If the place is right, run "
        "`rootcellar schema create` as a user who may make tables, or give a DBA what `rootcellar schema sql` prints.",
    ),
    failure(
        "schema-outdated",
        "the tables are of an older release",
        why="This release stores what they have no place for. Workers upgrade them unless "
        "database_create_tables_at_setup (DB_CREATE_TABLES) is false.",
        remedy="Run `rootcellar schema status`, which also names columns that somebody dropped, then "
        "`rootcellar schema upgrade` as a user who may change the tables. Workers may run meanwhile, also those of the "
        "older release.",
    ),
    failure(
        "schema-damaged",
        "tables or columns of rootcellar's are missing",
        why="Somebody dropped or renamed them. Storing or reading fails at what is missing. rootcellar makes tables "
        "once and does not repair them, because it cannot know what was in them.",
        remedy="`rootcellar schema status` names what is missing, and the statement that puts a column back. Restore "
        "the tables from a backup if what was in them is needed.",
    ),
    warning(
        "schema-newer",
        "the tables are of a newer release",
        why="This release does not know what the newer one keeps in them, and may leave it out.",
        remedy="Upgrade rootcellar here to the release that the others have.",
    ),
    failure(
        "foreign-tables",
        "tables of these names are somebody else's",
        why="They are Celery's own, it seems: rootcellar does not write into tables that it did not make.",
        remedy="Run `rootcellar schema adopt`, which keeps their results readable, or choose other names "
        "(DB_TASK_TABLE, DB_GROUP_TABLE).",
    ),
    failure(
        "round-trip-changed",
        "what was stored does not come back as it was",
        why="A client would get another result than the task returned.",
        remedy="See that no proxy and no other program changes the data, and what character set the database has.",
    ),
    failure(
        "sticky-overwritten",
        "a SUCCESS was overwritten",
        why="A task that is delivered twice could turn its own success into a failure.",
        remedy="See what else writes to this place, and report it: rootcellar must not do so.",
    ),
    warning(
        "notify-slow",
        "news of a result takes long",
        why="Whoever waits for a result gets it that much later.",
        remedy="See how far the server is and how busy; for PostgreSQL behind a pooler, set DB_LISTEN_HOST.",
    ),
    failure(
        "notify-lost",
        "news of a result did not come",
        why="Whoever waits would see the result only by looking again, or not at all.",
        remedy="See the warnings of `rootcellar check`, and the server's log.",
    ),
    failure(
        "expiry-ignored",
        "what has expired is still there",
        why="Results that are never deleted fill the server.",
        remedy="See the clock of the server; on MongoDB that its TTL monitor runs.",
    ),
    warning(
        "latency-high",
        "storing or reading takes long",
        why="Every task waits for its result to be stored: so many seconds are added to each.",
        remedy="Bring the workers nearer to the server, give it faster disks, or see what keeps it busy.",
    ),
    warning(
        "hybrid-cache-down",
        "the cache of the hybrid is out of use",
        why="Results come from the durable store meanwhile: all is right, and slower.",
        remedy="Correct what the lines above say of the cache.",
    ),
    failure(
        "append-only-missing",
        "results are acknowledged by a Redis that keeps no append-only file",
        why="With write-behind a result is in Redis alone for a while: a restart of it would lose what was "
        "acknowledged. Workers hold their results until it has one.",
        remedy="Run `redis-cli CONFIG SET appendonly yes` and set `appendonly yes` in redis.conf, or set "
        "HYBRID_MODE=write-through. `rootcellar drain --once` moves what is in Redis now.",
    ),
    warning(
        "hybrid-window",
        "a crash of Redis's machine may lose the last results",
        why="With write-behind they are acknowledged when Redis has them, which writes them to disk a little later.",
        remedy="Set `appendfsync always` in redis.conf, or accept the loss.",
    ),
    warning(
        "hybrid-refused",
        "results stay in Redis, for the durable store refuses them",
        why="They are not in the database's history, and go when they expire, or with Redis.",
        remedy="See the log of the workers for the reason, and store less or something else in them.",
    ),
    warning(
        "hybrid-lag",
        "results wait long in Redis for the durable store",
        why="They are not in the database's history yet, and a Redis that is lost takes them along.",
        remedy="See that `rootcellar drain` or a worker runs, and the database's load.",
    ),
)
