"""A chord ends although the result of an early member has gone before the last member ends, on every store."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery import chord

from rootcellar.archive.places import open_place
from rootcellar.maintenance.archive import Archive, ArchiveWork
from rootcellar.maintenance.cleanup import Cleanup, CleanupWork
from rootcellar.maintenance.spares import Spares
from rootcellar.stores.older import Older
from rootcellar.testing.gate import Gate
from rootcellar.testing.harness import Harness, open_harness
from rootcellar.testing.helpers import able, wait_until
from rootcellar.testing.under_test import MEMORY_BROKER, StoreUnderTest, WorkerUnderTest
from tests.conformance.registered import HYBRID, MONGO, MYSQL, POSTGRES, REDIS, REDIS_CLUSTER, SQLITE, WRITE_BEHIND
from tests.older.tables import enable

WAIT = 20.0
#: what takes the result of a member away
Way = Callable[[Harness, str, Path], None]


def by_cleanup(harness: Harness, task_id: str, folder: Path) -> None:
    """Delete what has expired, as a worker does every hour."""
    store = harness.backend.store
    cleanup = Cleanup(CleanupWork(store=store, spares=Spares(store, harness.backend.codec)))
    # MongoDB deletes by itself once a minute, Redis at the moment
    wait_until(lambda: cleanup.clean(with_blobs=False) and store.get(task_id) is None, "the result has gone")


def by_archiving(harness: Harness, task_id: str, folder: Path) -> None:
    """Archive what has expired, and clean up, as a worker does every hour. A member may stay until its chord ends."""
    backend = harness.backend
    work = ArchiveWork(
        store=backend.store,
        codec=backend.codec,
        retention=backend.retention,
        place=partial(open_place, str(folder / "archive")),
    )
    Archive(work).archive()
    spares = Spares(backend.store, backend.codec)
    Cleanup(CleanupWork(store=backend.store, spares=spares, archiving=backend.retention.archiving())).clean()


def by_moving(harness: Harness, task_id: str, folder: Path) -> None:
    """Move finished results to the older table. Members stay in the live table until their chord ends."""
    store = harness.backend.store
    older = able(store, Older)
    enable(store, older)
    older.move(datetime.now(timezone.utc), timedelta(0), 10, None)
    assert store.get(task_id) is not None


#: how long the early member is kept, and what happens then
RULES = {
    by_cleanup: {"keep": "10ms"},
    by_archiving: {"keep": "10ms", "then": "archive"},
    by_moving: {"keep": "1d"},
}
CASES = [
    *((under_test, by_cleanup) for under_test in (SQLITE, POSTGRES, MYSQL, REDIS, REDIS_CLUSTER, MONGO)),
    *((under_test, by_cleanup) for under_test in (HYBRID, WRITE_BEHIND)),
    *((under_test, by_archiving) for under_test in (SQLITE, POSTGRES)),
    (POSTGRES, by_moving),
]


@pytest.mark.parametrize(("under_test", "way"), CASES, ids=[f"{one}-{way.__name__}" for one, way in CASES])
def test_chord_ends_although_a_short_rule_takes_the_result_of_an_early_member(
    under_test: StoreUnderTest, way: Way, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    rule = {"task": "conformance.add", **RULES[way]}
    worker = WorkerUnderTest(under_test, "inside", MEMORY_BROKER)
    with open_harness(request, worker, result_retention=[rule]) as harness, Gate() as gate:
        tasks = harness.tasks
        result = chord([tasks.add.s(1, 1), tasks.hold.s(gate.port, "late")], tasks.echo.s())()
        gate.await_arrival()
        early = result.parent[0].id
        store = harness.backend.store
        # the part is counted in the transaction that stores the result
        wait_until(lambda: len(store.chord_parts(result.parent.id)) == 1, "the early member has ended")
        if way is not by_moving:
            wait_until(lambda: (found := store.get(early)) is None or _is_expired(found), "its result has expired")
        way(harness, early, tmp_path)
        gate.let_through()
        assert result.get(timeout=WAIT) == [2, "late"]


def _is_expired(record: Any) -> bool:
    return record.expires_at is not None and record.expires_at < datetime.now(timezone.utc)
