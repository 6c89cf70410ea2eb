"""Eight processes store in one SQLite file at once: no call fails, and no call waits for long."""

from __future__ import annotations

import time
from pathlib import Path

from rootcellar.stores import open_store
from rootcellar.stores.base import TaskQuery
from rootcellar.stores.sqlite import SQLiteStore
from rootcellar.testing.helpers import begun, part, record
from rootcellar.testing.suites.store.fixtures import processes  # noqa: F401 - a fixture
from rootcellar.testing.synced_processes import SyncedProcesses

PROCESSES = 8
STORES = 50
#: seconds; SQLite's lock has no queue, so one call may be unlucky, but not for so long
WORST = 10.0


def test_eight_processes_store_at_once_without_errors(processes: SyncedProcesses, tmp_path: Path) -> None:  # noqa: F811
    url = f"sqlite:///{tmp_path}/results.sqlite3"
    store = open_store(url)
    group = begun(store, PROCESSES * STORES // 2)
    answers = processes.run_alike(PROCESSES, _store_all, url, group)
    assert sum(claims for claims, _, _ in answers) == 1, "the chord was claimed once"
    waits = sorted(wait for _, waits, _ in answers for wait in waits)
    print(f"median {waits[len(waits) // 2]:.4f} s, worst {waits[-1]:.3f} s")
    assert waits[-1] < WORST
    ids = [task_id for _, _, ids in answers for task_id in ids]
    assert len(store.get_many(ids)) == PROCESSES * STORES
    store.close()


def _store_all(url: str, group: str, number: int) -> tuple[int, list[float], list[str]]:
    """Store and read results, every second one a part of a chord; return claims, times and ids."""
    store = SQLiteStore(url)
    claims, waits, ids = 0, [], []
    for turn in range(STORES):
        one = record()
        started = time.monotonic()
        stored = store.put(one, part(group, one.task_id, number * STORES + turn) if turn % 2 else None)
        waits.append(time.monotonic() - started)
        assert stored.written
        claims += bool(stored.chord and stored.chord.claimed)
        assert store.get(one.task_id) == one
        if turn % 20 == 0:
            assert len(store.query(TaskQuery(limit=5))) > 0
        ids.append(one.task_id)
    store.close()
    return claims, waits, ids
