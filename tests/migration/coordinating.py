"""A migration between two stores, with processes that follow it, for tests of the coordinator."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

from rootcellar.migration.coordinator import Coordinator, Options, Watching
from rootcellar.migration.pair import Pair, pair_of
from rootcellar.migration.state import PROCESSES, StateBook, find_state, is_over
from rootcellar.records import Payload, TaskRecord
from rootcellar.stores import Store, open_store
from rootcellar.stores.dual.phases import Phase
from rootcellar.testing.memory import forget_place

#: no test waits for these times
QUICK = Options(look_every=0.01, leave_out_from=0.05, left_out_after=0.1, renewal=0.1)
#: the time when the test began: the fixture `begin` of conftest.py sets it
NOW = datetime.now(timezone.utc)


def record(
    task_id: str, state: str = "SUCCESS", value: object = 1, minutes_ago: float = 5.0, **fields: object
) -> TaskRecord:
    """Return a record of a task that has ended."""
    done = NOW - timedelta(minutes=minutes_ago)
    about: dict[str, object] = {"sent_at": done - timedelta(seconds=2), "done_at": done, "name": "shop.pay", **fields}
    return TaskRecord(task_id=task_id, state=state, result=Payload(json.dumps(value).encode()), **about)  # type: ignore[arg-type]


def records(count: int, prefix: str = "task") -> list[TaskRecord]:
    """Return records of many tasks."""
    return [record(f"{prefix}-{number:05}", value=number) for number in range(count)]


@contextmanager
def memory_pair() -> Iterator[Pair]:
    """Two empty stores in memory."""
    urls = [f"rootcellar+memory://{name}-{uuid.uuid4().hex}" for name in ("source", "target")]
    yield pair_of(*(open_store(url) for url in urls))
    for url in urls:
        forget_place(url.removeprefix("rootcellar+"))


def in_store(store: Store) -> dict[str, TaskRecord]:
    """Return everything that a store holds."""
    return {each.task_id: each for each in store.scan(limit=100_000)}


class Follower:
    """A process that follows the phase, as the processes of an application do. It only confirms: it stores nothing.

    Args:
        pair: both stores.
        name: its key, ``host/pid-start``.
    """

    def __init__(self, pair: Pair, name: str) -> None:
        self._pair = pair
        self._key = f"{PROCESSES}{name}"
        self._stop = threading.Event()
        #: while it is set, the process stands still
        self.frozen = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Follower:
        self.confirm()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._pair.target.values.unshare([self._key])

    def confirm(self) -> None:
        """Confirm the phase of this moment."""
        state = find_state(self._pair.target)
        about = {"phase": 0 if state is None else int(state.phase)}
        self._pair.target.values.share(self._key, json.dumps(about))

    def _follow(self) -> None:
        while not self._stop.wait(0.01):
            if not self.frozen.is_set():
                self.confirm()


def coordinator(pair: Pair, options: Options = QUICK, watching: Watching | None = None, by: str = "ann") -> Coordinator:
    """Return a coordinator that does not wait for long."""
    return Coordinator(pair, options, watching=watching, by=by)


def book(pair: Pair) -> StateBook:
    """Return the state of a migration."""
    return StateBook(pair, "bob")


@contextmanager
def sqlite_pair(folder: Path) -> Iterator[Pair]:
    """Two empty files of SQLite."""
    pair = pair_of(*(open_store(f"sqlite:///{folder}/{name}.sqlite3") for name in ("source", "target")))
    yield pair
    pair.close()


def to_phase(pair: Pair, phase: Phase) -> None:
    """Let a migration reach a phase."""
    while (state := book(pair).find()) is None or is_over(state) or state.phase < phase:
        if state is None or is_over(state) or state.phase is Phase.PREPARED:
            coordinator(pair).start()
        else:
            coordinator(pair).advance()
