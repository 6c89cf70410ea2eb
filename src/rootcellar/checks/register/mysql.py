"""Problems with MySQL and MariaDB."""

from __future__ import annotations

from rootcellar.checks.register.entry import failure, warning

PROBLEMS = (
    warning(
        "mysql-packet",
        "the server takes only small statements",
        why="A result longer than max_allowed_packet is refused, and its task fails.",
        remedy="Set `max_allowed_packet = 64M` in the server's [mysqld] section.",
    ),
    failure(
        "mysql-isolation",
        "the session does not read what others have committed",
        why="With REPEATABLE READ a client that waits in a transaction never sees the result.",
        remedy="See what sets transaction_isolation after the connection is made (a proxy?): rootcellar asks for "
        "READ COMMITTED.",
    ),
    failure(
        "mysql-binlog-format",
        "the binary log cannot hold what is written with READ COMMITTED",
        why="With binlog_format=STATEMENT the server refuses every write of a READ COMMITTED session.",
        remedy="Set `binlog_format = ROW` (or MIXED) in the server's [mysqld] section.",
    ),
    warning(
        "mysql-durability",
        "the server acknowledges results before they are on disk",
        why="With innodb_flush_log_at_trx_commit other than 1 a crash loses the last second of results.",
        remedy="Set `innodb_flush_log_at_trx_commit = 1`, or accept it for results that may be lost.",
    ),
    failure(
        "mysql-too-few-connections",
        "the server does not take as many connections as the workers need",
        why="A worker that gets none stores nothing and keeps its task waiting.",
        remedy="Raise max_connections (and the user's own limit), or run fewer processes.",
    ),
    warning(
        "mysql-connections",
        "workers x pool may want more connections than the server takes",
        why="When all threads are busy, those who come last get none: their results wait.",
        remedy="Lower DB_POOL_SIZE and DB_MAX_OVERFLOW, or raise max_connections.",
    ),
    failure(
        "mysql-engine",
        "InnoDB is not there",
        why="Only its tables have transactions.",
        remedy="Turn InnoDB on in the server.",
    ),
)
