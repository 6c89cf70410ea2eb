"""Asking for tasks by more than their id, on a server that keeps no index: by reading all, if they are not many."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone

from rootcellar.errors import AbilityMissing
from rootcellar.records import TaskRecord
from rootcellar.stores.base import TaskQuery
from rootcellar.stores.matching import matcher
from rootcellar.stores.redis.keys import Keys
from rootcellar.stores.redis.servers import Servers
from rootcellar.stores.rows import chunks

#: with more tasks than this nothing is read: it would take long, and keep others waiting
MOST = 100_000
#: tasks that are read at a time
_BATCH = 250

_LAST = datetime.max.replace(tzinfo=timezone.utc)
Fetch = Callable[[Iterable[str]], Mapping[str, TaskRecord]]


def query_all(servers: Servers, keys: Keys, fetch: Fetch, query: TaskQuery, where: str) -> Sequence[TaskRecord]:
    """Return the tasks that match: unfinished ones first, then the most recently finished.

    Raises:
        AbilityMissing: there are more than :data:`MOST` tasks.
    """
    ids: set[str] = set()
    for some in servers.keys(keys.all_tasks):
        ids.update(map(keys.task_id, some))
        if len(ids) > MOST:
            raise AbilityMissing(
                f"Redis has no index, and more than {MOST:,} results are too many to read for each question",
                where=where,
                remedy="keep results that you want to ask about in PostgreSQL, or in the hybrid of both",
            )
    matches = matcher(query)
    found: list[TaskRecord] = []
    for batch in chunks(list(ids), _BATCH):
        matching = [record for record in fetch(batch).values() if matches(record)]
        found = heapq.nlargest(query.limit, [*found, *matching], key=_recency)
    return found


def _recency(record: TaskRecord) -> tuple[datetime, datetime, datetime, str]:
    return record.done_at or _LAST, record.started_at or _LAST, record.sent_at or _LAST, record.task_id
