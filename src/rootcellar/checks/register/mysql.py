"""Problems with MySQL and MariaDB."""

from __future__ import annotations

from rootcellar.checks.register.entry import failure, warning

#: the title of these problems in docs/troubleshooting.md
TITLE = "MySQL and MariaDB"
PROBLEMS = (
    warning(
        "mysql-packet",
        "the server accepts only small statements",
        why="A result longer than max_allowed_packet is refused, and its task fails.",
        remedy="Set `max_allowed_packet = 64M` in the server's [mysqld] section.",
    ),
    failure(
        "mysql-isolation",
        "the session does not read what other sessions have committed",
        why="With REPEATABLE READ a client that waits in a transaction never sees the result.",
        remedy="rootcellar asks for READ COMMITTED. Find what changes transaction_isolation after that, such as a "
        "proxy.",
    ),
    failure(
        "mysql-binlog-format",
        "the binary log does not support READ COMMITTED",
        why="With binlog_format=STATEMENT the server refuses every write of a READ COMMITTED session.",
        remedy="Set `binlog_format = ROW` (or MIXED) in the server's [mysqld] section.",
    ),
    warning(
        "mysql-durability",
        "the server acknowledges results before they are on disk",
        why="With innodb_flush_log_at_trx_commit other than 1 a crash loses the last second of results.",
        remedy="Set `innodb_flush_log_at_trx_commit = 1`, or accept the loss.",
    ),
    failure(
        "mysql-too-few-connections",
        "the server accepts fewer connections than the workers need",
        why="A worker without a connection cannot store results, and its tasks wait.",
        remedy="Raise max_connections (and the user's own limit), or run fewer processes.",
    ),
    warning(
        "mysql-connections",
        "workers x pool may need more connections than the server accepts",
        why="When all threads are busy, some get no connection: their results wait.",
        remedy="Lower DB_POOL_SIZE and DB_MAX_OVERFLOW, or raise max_connections.",
    ),
    failure(
        "mysql-engine",
        "InnoDB is not available",
        why="Only InnoDB tables have transactions.",
        remedy="Turn on InnoDB in the server.",
    ),
)
