"""Problems with what every store must do."""

from __future__ import annotations

from rootcellar.checks.register.entry import failure, warning

#: the title of these problems in docs/troubleshooting.md
TITLE = "What every store must do"
PROBLEMS = (
    failure(
        "permission-denied",
        "the user lacks rights that a worker needs",
        why="A worker fails at the first operation that needs a missing right, perhaps only days later: at a chord or "
        "a clean-up.",
        remedy="Grant the rights that are named. `rootcellar schema grants USER` prints the least rights of a worker; "
        "docs/redis.md has those of a Redis user.",
    ),
    failure(
        "schema-missing",
        "the tables do not exist",
        why="Workers create the tables unless database_create_tables_at_setup (DB_CREATE_TABLES) is false. Or the "
        "tables are in another database or schema.",
        remedy="`rootcellar schema status` prints which tables rootcellar expects, and where. If the place is right, "
        "run `rootcellar schema create` as a user who may create tables, or give a DBA the output of `rootcellar "
        "schema sql`.",
    ),
    failure(
        "schema-outdated",
        "the tables are of an older release",
        why="Workers upgrade the tables unless database_create_tables_at_setup (DB_CREATE_TABLES) is false.",
        remedy="Run `rootcellar schema status`, which also names missing columns, then `rootcellar schema upgrade` as "
        "a user who may change the tables. Workers may keep running, also those of the older release.",
    ),
    failure(
        "schema-damaged",
        "tables or columns of rootcellar's are missing",
        why="Somebody dropped or renamed them. rootcellar does not repair tables, because it cannot know what was in "
        "them.",
        remedy="`rootcellar schema status` names what is missing, and the statement that adds a column again. Restore "
        "the tables from a backup if you need what was in them.",
    ),
    warning(
        "schema-newer",
        "the tables are of a newer release",
        why="This release does not fill the newer columns.",
        remedy="Upgrade rootcellar here to the release of the other processes.",
    ),
    failure(
        "foreign-tables",
        "the tables with these names were not created by rootcellar",
        why="They are probably Celery's own. rootcellar never writes into them.",
        remedy="Run `rootcellar schema adopt`, which keeps their results readable, or choose other names "
        "(DB_TASK_TABLE, DB_GROUP_TABLE).",
    ),
    warning(
        "hold-unreadable",
        "the filter of a hold cannot be understood",
        why="Until it is released, this hold keeps every result, because nobody can say what it should keep. Nothing "
        "is deleted meanwhile, so the tables grow. It may have been placed by a newer release.",
        remedy="Upgrade rootcellar here to the release that placed it, which `rootcellar hold list` names by its time. "
        "Or place a new hold with a filter that is understood, then release the old one.",
    ),
    failure(
        "round-trip-changed",
        "a stored value comes back changed",
        why="A client would get another result than the task returned.",
        remedy="Check the database's character set, and whether a proxy or another program changes the data.",
    ),
    failure(
        "sticky-overwritten",
        "a SUCCESS was overwritten",
        why="A task that is delivered twice could turn its own success into a failure.",
        remedy="Find out whether another program writes to this store. If none does, report it: rootcellar must never "
        "do so.",
    ),
    warning(
        "notify-slow",
        "the notification of a result takes long",
        why="Waiting clients get every result so much later.",
        remedy="Check the network and the server's load. For PostgreSQL behind a pooler, set DB_LISTEN_HOST.",
    ),
    failure(
        "notify-lost",
        "the notification of a result did not arrive",
        why="Waiting clients get results only by polling.",
        remedy="See the warnings of `rootcellar check`, and the server's log.",
    ),
    warning(
        "cleanup-missing",
        "expired results were not deleted for two days",
        why="The table grows without end, and a large table is slow to clean.",
        remedy="Run a worker, which cleans up every hour unless cleanup_interval is 0, or `rootcellar cleanup`. If a "
        "worker runs, see its log.",
    ),
    warning(
        "archive-missing",
        "rules archive results, and no archive is configured",
        why="These results stay in the table for ever, also after they have expired.",
        remedy="Set result_archive (ROOTCELLAR_ARCHIVE), or change `then` of these rules to delete.",
    ),
    warning(
        "partition-passed",
        "all results of a partition expired more than two days ago, and it was not dropped",
        why="Expired results in the older table are deleted only with their partition, so the table grows.",
        remedy="`rootcellar partitions status` prints the last run and the rights that this user lacks. Run "
        "`rootcellar maintain --apply` as the user that owns the older table, and `rootcellar archive run` if rules "
        "archive these results.",
    ),
    warning(
        "disk-full-soon",
        "the disk is full in less than 14 days, if the tables grow as in the last weeks",
        why="A full disk stops every task that stores a result.",
        remedy="Keep results for a shorter time, archive older ones, or give the disk more room. The limit is that "
        "of ROOTCELLAR_DISK; for SQLite without it, the free space.",
    ),
    failure(
        "expiry-ignored",
        "an expired result was not deleted",
        why="Results that are never deleted fill the server.",
        remedy="Check the server's clock, and on MongoDB its TTL monitor.",
    ),
    warning(
        "latency-high",
        "storing or reading takes long",
        why="Every task waits until its result is stored.",
        remedy="Run the workers nearer to the server, give it faster disks, or find out what keeps it busy.",
    ),
    warning(
        "hybrid-cache-down",
        "the hybrid does not use its cache at the moment",
        why="Results are read from the durable store, which is correct but slower.",
        remedy="Correct the problems of the cache that are listed above.",
    ),
    failure(
        "append-only-missing",
        "results are acknowledged by a Redis that keeps no append-only file",
        why="With write-behind, only Redis has the newest results: a restart of Redis would lose them. Workers keep "
        "their results until Redis has an append-only file.",
        remedy="Run `redis-cli CONFIG SET appendonly yes` and set `appendonly yes` in redis.conf, or set "
        "HYBRID_MODE=write-through. `rootcellar drain --once` moves the results that are in Redis now.",
    ),
    warning(
        "hybrid-window",
        "a crash of Redis's machine may lose the last results",
        why="With write-behind, results are acknowledged when Redis has them in memory, a little before they are on "
        "its disk.",
        remedy="Set `appendfsync always` in redis.conf, or accept the loss.",
    ),
    warning(
        "hybrid-refused",
        "results stay in Redis because the durable store refuses them",
        why="They are not in the database. They are lost when they expire, or with Redis.",
        remedy="See the workers' log for the reason, and change what these tasks store.",
    ),
    warning(
        "hybrid-lag",
        "results wait too long in Redis before they are moved",
        why="They are not in the database yet. If Redis is lost, they are lost.",
        remedy="Check that `rootcellar drain` or a worker runs, and check the database's load.",
    ),
)
