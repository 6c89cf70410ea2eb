"""One side of a comparison, run by ``benchmarks.against``: makes the requested calls, and prints their CPU time.

Only Celery's own interface is used, so that it also runs with an older rootcellar.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

from celery.app.task import Context
from celery.result import AsyncResult, GroupResult

from benchmarks.app import make_app

VALUE = {"order": 7, "total": 129.9, "lines": ["apples", "walnuts", "quince"], "is_paid": True, "note": None}
#: tasks of a group, and parts of a chord that are stored in one measurement
GROUP = 10
#: parts of a chord's header: so many that it never completes
HEADER = 100_000
#: seconds that a waiting thread gets to subscribe
_SUBSCRIBE = 0.002
#: seconds after which a result must be there
_LIMIT = 60

#: the measured calls
Work = Callable[[], object]


class Side:
    """An app with the results of one rootcellar.

    Args:
        url: Celery's ``result_backend``.
        options: its ``result_backend_transport_options``.
    """

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self._app = make_app("memory://", url, {"result_backend_transport_options": options})
        self._backend = self._app.backend
        self._chord_id = str(uuid.uuid4())
        header = [AsyncResult(f"part-{number}", app=self._app) for number in range(2)]
        self._backend.apply_chord((self._chord_id, header), self._app.tasks["total"].s())
        self._backend.set_chord_size(self._chord_id, HEADER)
        self._stored = [self._store() for _ in range(2 * GROUP)]
        self._waited_for: SimpleQueue[str] = SimpleQueue()
        self._found: SimpleQueue[Any] = SimpleQueue()
        threading.Thread(target=self._wait_for_all, daemon=True).start()
        self._next = 0

    def prepared(self, row: str) -> Work:
        """Return the calls for a row of the table."""
        work: dict[str, Work] = {
            "store": self._store,
            "get": self._read,
            "get_pending": lambda: self._backend.get_task_meta(str(uuid.uuid4()), cache=False),
            "chord_part": lambda: self._store(group=self._chord_id, chord=self._app.tasks["total"].s()),
            "join": self._join,
            "wait": self._wait,
        }
        return work[row]

    def _store(self, **more: Any) -> str:
        task_id = str(uuid.uuid4())
        request = Context(
            id=task_id,
            task="echo",
            args=(1, 2),
            kwargs={"a": 1},
            hostname="worker1@kitchen",
            retries=0,
            delivery_info={"routing_key": "celery"},
            root_id=task_id,
            called_directly=False,
            **more,
        )
        self._backend.mark_as_done(task_id, VALUE, request)
        return task_id

    def _read(self) -> None:
        self._next = (self._next + 1) % len(self._stored)
        found = self._backend.get_task_meta(self._stored[self._next], cache=False)
        assert found["result"] == VALUE, found

    def _join(self) -> None:
        results = [AsyncResult(task_id, app=self._app) for task_id in self._stored[:GROUP]]
        assert len(GroupResult(str(uuid.uuid4()), results, app=self._app).get(timeout=_LIMIT)) == GROUP

    def _wait(self) -> None:
        task_id = str(uuid.uuid4())
        self._waited_for.put(task_id)
        time.sleep(_SUBSCRIBE)
        self._backend.store_result(task_id, VALUE, "SUCCESS")
        found = self._found.get(timeout=_LIMIT)
        assert found == VALUE, found

    def _wait_for_all(self) -> None:
        while True:
            task_id = self._waited_for.get()
            self._found.put(AsyncResult(task_id, app=self._app).get(timeout=_LIMIT))


def main() -> None:
    """Answer each line of JSON (row, how often, how deep in the stack) with the microseconds of CPU of one call."""
    url, options = sys.argv[1], json.loads(sys.argv[2])
    with _only_answers() as answer:
        side = Side(url, options)
        answer("ready")
        for line in sys.stdin:
            row, count, depth = json.loads(line)
            answer(_deeper(depth, side.prepared(row), count))


def _deeper(depth: int, work: Work, count: int) -> float:
    """Measure at some depth of the stack: where CPython's frames cross a chunk of memory, each call costs more."""
    return _deeper(depth - 1, work, count) if depth else _microseconds(work, count)


def _microseconds(work: Work, count: int) -> float:
    before = time.process_time()
    for _ in range(count):
        work()
    return (time.process_time() - before) / count * 1e6


@contextmanager
def _only_answers() -> Iterator[Callable[[object], None]]:
    """Keep all other output off the standard output."""
    out, sys.stdout = sys.stdout, sys.stderr
    yield lambda what: print(json.dumps(what), file=out, flush=True)


if __name__ == "__main__":
    main()
