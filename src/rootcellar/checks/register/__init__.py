"""The register: every problem that a check can name, with why it matters and what to change.

``docs/troubleshooting.md`` is generated from it. A code, once released, never changes its meaning.
"""

from __future__ import annotations

from rootcellar.checks.findings import Problem
from rootcellar.checks.register import broker, common, mongodb, mysql, postgres, redis, sqlite, stores

#: by subject, in the order of docs/troubleshooting.md
GROUPS: tuple[tuple[str, tuple[Problem, ...]], ...] = (
    ("Settings and the way to the server", common.PROBLEMS),
    ("What every store must do", stores.PROBLEMS),
    ("PostgreSQL and PgBouncer", postgres.PROBLEMS),
    ("Redis, Sentinel and Cluster", redis.PROBLEMS),
    ("MySQL and MariaDB", mysql.PROBLEMS),
    ("SQLite", sqlite.PROBLEMS),
    ("MongoDB", mongodb.PROBLEMS),
    ("Brokers and RPC", broker.PROBLEMS),
)

_BY_CODE = {problem.code: problem for _, problems in GROUPS for problem in problems}


def all_problems() -> tuple[Problem, ...]:
    """Return every problem that ``rootcellar check`` can print."""
    return tuple(_BY_CODE.values())


def registered_problem(code: str) -> Problem:
    """Return the problem of that name.

    Raises:
        KeyError: there is no such problem. Every problem that is printed must be registered.
    """
    return _BY_CODE[code]
