"""Reads pages of tasks in the order of their ids, and runs queries, on a server that has no index."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from itertools import islice

from rootcellar.errors import AbilityMissing
from rootcellar.records import TaskRecord
from rootcellar.stores.base import TaskQuery
from rootcellar.stores.framing import chunks
from rootcellar.stores.matching import matcher
from rootcellar.stores.redis.keys import Keys
from rootcellar.stores.redis.servers import Servers

#: the most ids that one scan of all keys returns and keeps in memory
MAX_IDS_AHEAD = 100_000

Fetch = Callable[[Iterable[str]], Mapping[str, TaskRecord]]


class Scanner:
    """Returns pages of tasks.

    A scan of all keys finds the next :data:`MAX_IDS_AHEAD` ids; the following pages are taken from these. A task that
    existed all the time also existed during the scan, so none is missed. A process that continues after another one
    scans again.
    """

    def __init__(self, servers: Servers, keys: Keys) -> None:
        self._servers = servers
        self._keys = keys
        #: the last id of a page -> the ids that follow, and whether there are no others
        self._ahead: dict[str, tuple[list[str], bool]] = {}

    def page(self, after: str | None, limit: int, fetch: Fetch) -> list[TaskRecord]:
        """Return up to ``limit`` tasks after the id ``after``."""
        ids, is_whole = self._take(after)
        found: list[TaskRecord] = []
        while len(found) < limit and (ids or not is_whole):
            if not ids:
                ids, is_whole = self._walk(after)
                continue
            room = limit - len(found)
            some, ids = ids[:room], ids[room:]
            after = some[-1]
            records = fetch(some)
            found += [records[task_id] for task_id in some if task_id in records]
        if found:
            self._ahead = {found[-1].task_id: (ids, is_whole)}
        return found

    def _take(self, after: str | None) -> tuple[list[str], bool]:
        if after is not None and (known := self._ahead.pop(after, None)) is not None:
            return known
        return self._walk(after)

    def _walk(self, after: str | None) -> tuple[list[str], bool]:
        """Return the first ids after ``after``, sorted, and whether there are no others."""
        bound = None if after is None else self._keys.task(after)
        matching = (
            key
            for keys in self._servers.keys(self._keys.all_tasks)
            for key in keys
            if (bound is None or key > bound) and self._keys.is_task(key)
        )
        smallest: list[bytes] = []
        # each piece is added to a set, because SCAN may return a key twice
        while piece := list(islice(matching, MAX_IDS_AHEAD)):
            smallest = heapq.nsmallest(MAX_IDS_AHEAD, {*smallest, *piece})
        return [self._keys.task_id(key) for key in smallest], len(smallest) < MAX_IDS_AHEAD


#: the most tasks that a query reads: more would take too long, also for other clients
MAX_TASKS = 100_000


#: the most tasks that are read at a time
_BATCH = 250


_LAST = datetime.max.replace(tzinfo=timezone.utc)


def query_all(servers: Servers, keys: Keys, fetch: Fetch, query: TaskQuery, where: str) -> Sequence[TaskRecord]:
    """Return the tasks that match: unfinished ones first, then the most recently finished.

    Raises:
        AbilityMissing: there are more than :data:`MAX_TASKS` tasks.
    """
    ids: set[str] = set()
    for some in servers.keys(keys.all_tasks):
        ids.update(map(keys.task_id, some))
        if len(ids) > MAX_TASKS:
            raise AbilityMissing(
                f"Redis has no index, and more than {MAX_TASKS:,} results are too many to read for each question",
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
