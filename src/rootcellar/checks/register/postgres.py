"""Problems with PostgreSQL, and with PgBouncer before it."""

from __future__ import annotations

from rootcellar.checks.register.entry import failure, warning

PROBLEMS = (
    failure(
        "pooler-unfit",
        "the connection pooler cannot serve as it is set",
        why="In statement mode, or with start-up parameters refused, no transaction can be made. A result and the part "
        "of a chord that it counts are stored in one transaction.",
        remedy="In pgbouncer.ini set pool_mode to transaction or session, and add what is named to "
        "ignore_startup_parameters. Then reload PgBouncer (`RELOAD` in its console).",
    ),
    warning(
        "pooler-no-listen-url",
        "a transaction pooler keeps notifications away",
        why="A pooler in transaction mode passes on no notifications: whoever waits for a result polls for it, which "
        "is slower and costs queries.",
        remedy="Name the server's own address to listen at: DB_LISTEN_HOST and DB_LISTEN_PORT, or listen_url in "
        "result_backend_transport_options.",
    ),
    warning(
        "pooler-prepared",
        "statements are prepared through a pooler that loses them",
        why="What was prepared in one session is looked for in another; it is noticed and done again, at a cost.",
        remedy="Leave DB_PREPARED_STATEMENTS at auto, or use PgBouncer 1.21 or later with max_prepared_statements.",
    ),
    failure(
        "listen-unusable",
        "the address to listen at cannot be used",
        why="Whoever waits for a result polls for it.",
        remedy="Correct DB_LISTEN_HOST and DB_LISTEN_PORT, or listen_url.",
    ),
    failure(
        "postgres-too-few-connections",
        "the server does not take as many connections as the workers need",
        why="A worker that gets none stores nothing and keeps its task waiting.",
        remedy="Raise max_connections, run fewer processes, or put PgBouncer in transaction mode before the server.",
    ),
    warning(
        "postgres-connections",
        "workers x pool may want more connections than the server takes",
        why="When all threads are busy, those who come last get none: their results wait.",
        remedy="Lower DB_POOL_SIZE and DB_MAX_OVERFLOW, raise max_connections, or put PgBouncer before the server.",
    ),
    failure(
        "postgres-fsync",
        "the server does not write to disk what it acknowledges",
        why="With fsync=off a power cut can destroy the whole database, not only the last results.",
        remedy="Set fsync = on in postgresql.conf.",
    ),
    warning(
        "postgres-full-page-writes",
        "full_page_writes is off",
        why="A power cut amid a write can leave a page half old and half new.",
        remedy="Set full_page_writes = on in postgresql.conf.",
    ),
    warning(
        "postgres-synchronous-commit",
        "the server acknowledges results before they are on disk",
        why="With synchronous_commit=off a crash loses the last half second of results that workers believe stored.",
        remedy="Set synchronous_commit = on for this database or role, or accept it for results that may be lost.",
    ),
    warning(
        "postgres-statement-timeout",
        "statements are cut off soon",
        why="A large result or a clean-up may take longer, and is refused each time.",
        remedy="ALTER ROLE … SET statement_timeout = '30s' or more for the user of the workers.",
    ),
    warning(
        "postgres-encoding",
        "the database is not in UTF-8",
        why="Results with characters that its encoding lacks are refused.",
        remedy="Make a database with ENCODING 'UTF8'.",
    ),
)
