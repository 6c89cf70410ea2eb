"""Whether a record matches a query, for servers without an index: Redis, and the tables that Celery created."""

from __future__ import annotations

import re
from collections.abc import Callable

from rootcellar.records import TaskRecord
from rootcellar.stores.base import TaskQuery


def matcher(query: TaskQuery) -> Callable[[TaskRecord], bool]:
    """Return a function that returns whether a record meets every condition of ``query``."""
    wanted = [
        (field, re.compile("|".join(map(_pattern, texts)), re.DOTALL))
        for field, texts in (("name", query.names), ("queue", query.queues), ("worker", query.workers))
        if texts
    ]

    def matches(record: TaskRecord) -> bool:
        if query.states and record.state not in query.states:
            return False
        if not record.task_id.startswith(query.id_prefix):
            return False
        if any(not pattern.fullmatch(getattr(record, field) or "") for field, pattern in wanted):
            return False
        if query.since is None and query.until is None:
            return True
        moment = record.done_at or record.started_at or record.sent_at
        if moment is None:
            return False
        return (query.since is None or moment >= query.since) and (query.until is None or moment < query.until)

    return matches


def _pattern(name: str) -> str:
    """Return the regular expression for a text in which ``*`` matches any text."""
    return ".*".join(map(re.escape, name.split("*")))
