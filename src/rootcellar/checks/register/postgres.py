"""Problems with PostgreSQL, and with PgBouncer in front of it."""

from __future__ import annotations

from rootcellar.checks.register.entry import failure, warning

#: the title of these problems in docs/troubleshooting.md
TITLE = "PostgreSQL and PgBouncer"
PROBLEMS = (
    failure(
        "pooler-unfit",
        "the connection pooler cannot be used with its configuration",
        why="A result is stored in a transaction. In statement mode, or if start-up parameters are refused, none is "
        "possible.",
        remedy="In pgbouncer.ini set pool_mode to transaction or session, and add the named parameters to "
        "ignore_startup_parameters. Then reload PgBouncer (`RELOAD` in its console).",
    ),
    warning(
        "pooler-no-listen-url",
        "a transaction pooler does not pass on notifications",
        why="Waiting clients poll, which is slower and costs queries.",
        remedy="Give the server's own address for listening: DB_LISTEN_HOST and DB_LISTEN_PORT, or listen_url in "
        "result_backend_transport_options.",
    ),
    warning(
        "pooler-prepared",
        "statements are prepared through a pooler that loses them",
        why="A statement is prepared in one session and executed in another, where it is missing. rootcellar prepares "
        "it again, which takes time.",
        remedy="Leave DB_PREPARED_STATEMENTS at auto, or use PgBouncer 1.21 or later with max_prepared_statements.",
    ),
    failure(
        "listen-unusable",
        "the address for listening cannot be used",
        why="Waiting clients poll.",
        remedy="Correct DB_LISTEN_HOST and DB_LISTEN_PORT, or listen_url.",
    ),
    failure(
        "postgres-too-few-connections",
        "the server accepts fewer connections than the workers need",
        why="A worker without a connection cannot store results, and its tasks wait.",
        remedy="Raise max_connections, run fewer processes, or put PgBouncer in transaction mode in front of the "
        "server.",
    ),
    warning(
        "postgres-connections",
        "workers x pool may need more connections than the server accepts",
        why="When all threads are busy, some get no connection: their results wait.",
        remedy="Lower DB_POOL_SIZE and DB_MAX_OVERFLOW, raise max_connections, or put PgBouncer in front of the "
        "server.",
    ),
    warning(
        "vacuum-held-back",
        "something old keeps vacuum from removing deleted rows, or keeps the server's log",
        why="The table and its indexes grow with every deleted row, also after results have expired, and queries get "
        "slower. A replication slot that nothing reads fills the disk.",
        remedy="End the transaction, or drop the slot if nothing will read it again; `rootcellar maintain` names each.",
    ),
    warning(
        "autovacuum-off",
        "the server does not vacuum the tables by itself",
        why="Every result is deleted in the end. Without vacuum, the space of deleted rows is never used again.",
        remedy="Set autovacuum and track_counts to on, and remove autovacuum_enabled from the tables: "
        "`rootcellar maintain` prints the statements.",
    ),
    warning(
        "index-invalid",
        "an index is invalid, because its creation failed or was interrupted",
        why="It costs time at each write, and no query uses it.",
        remedy="Run `rootcellar maintain --apply` as the owner of the tables.",
    ),
    failure(
        "postgres-fsync",
        "the server does not write to disk what it acknowledges",
        why="A power cut can destroy the whole database, not only the last results.",
        remedy="Set fsync = on in postgresql.conf.",
    ),
    warning(
        "postgres-full-page-writes",
        "full_page_writes is off",
        why="A power cut during a write can leave a page half old and half new.",
        remedy="Set full_page_writes = on in postgresql.conf.",
    ),
    warning(
        "postgres-synchronous-commit",
        "the server acknowledges results before they are on disk",
        why="A crash loses the results of the last half second, which workers count as stored.",
        remedy="Set synchronous_commit = on for this database or role, or accept the loss.",
    ),
    warning(
        "postgres-statement-timeout",
        "statement_timeout is very short",
        why="A large result or a clean-up may take longer, and then fails each time.",
        remedy="ALTER ROLE … SET statement_timeout = '30s' or more for the user of the workers.",
    ),
    warning(
        "postgres-encoding",
        "the database is not in UTF-8",
        why="Results with characters that its encoding lacks are refused.",
        remedy="Create a database with ENCODING 'UTF8'.",
    ),
)
