"""PostgreSQL goes away amid 1,000 running tasks and comes back: every result is stored once and is right."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import chord
from celery.result import GroupResult

from rootcellar.testing.background import Background
from tests.faults.bed import HEAVY, Audit, Bed
from tests.servers import PostgresServer, RedisServer

#: 1,000 tasks in all
SQUARES = 800
PARTS = 200
LATE = {"task_acks_late": True, "task_reject_on_worker_lost": True}
EARLY = {"task_acks_late": False}


def killed(server: PostgresServer, notice: Callable[[], None]) -> None:
    server.kill()
    notice()
    server.start()


def shut_down(server: PostgresServer, notice: Callable[[], None]) -> None:
    server.stop()
    notice()
    server.start()


def frozen(server: PostgresServer, notice: Callable[[], None]) -> None:
    server.pause()
    # nobody notices so short a silence
    time.sleep(30 if HEAVY else 4)
    server.resume()


@pytest.mark.parametrize("outage", [killed, shut_down, frozen])
def test_outage_amid_tasks(
    outage: Callable[[PostgresServer, Callable[[], None]], None],
    new_postgres: Callable[..., PostgresServer],
    new_redis: Callable[..., RedisServer],
    tmp_path: Path,
) -> None:
    server = new_postgres()
    store = server.create_database()
    beds = [Bed(tmp_path, new_redis().url, store, task_track_started=True, **settings) for settings in (LATE, EARLY)]
    beds[0].create_tables()
    audit = Audit(store)
    workers = [bed.worker(concurrency=4) for bed in beds]
    with beds[0].workers(*workers):
        children = [worker.children() for worker in workers]
        crowds = [Crowd(bed) for bed in beds]
        for crowd in crowds:
            assert crowd.amid.wait(30), "a third of the tasks is done"

        def notice() -> None:
            for worker in workers:
                worker.wait_for_log(r"Could not store \w+ of task .*Trying again", timeout=60)

        outage(server, notice)
        for bed, crowd in zip(beds, crowds, strict=True):
            crowd.check(bed)
        assert audit.overwritten() == []
        assert set(audit.successes().values()) == {1}, "each result is stored once"
        assert len(audit.successes()) == len(beds) * (SQUARES + PARTS + 1)
        assert [worker.children() for worker in workers] == children, "no process had to be replaced"
        for bed in beds:
            assert bed.task("square").delay(4).get(timeout=20) == {"number": 4, "square": 16}


class Crowd:
    """1,000 tasks, a chord among them, and those who wait for them."""

    def __init__(self, bed: Bed) -> None:
        square, part, body = bed.task("square"), bed.task("part"), bed.task("body")
        self.amid = threading.Event()
        self._results = [square.delay(number, 0.005) for number in range(SQUARES // 2)]
        self._body = chord([part.s(1, index) for index in range(PARTS)], body.s(1), app=bed.client).delay()
        self._results += [square.delay(number, 0.005) for number in range(SQUARES // 2, SQUARES)]
        group = GroupResult(results=self._results, app=bed.client)
        again = [bed.client.AsyncResult(result.id) for result in self._results]
        self._joined = Background(lambda: group.join(timeout=100))
        self._last = Background(lambda: again[-1].get(timeout=100))
        self._seen = Background(lambda: self._look(bed))

    def _look(self, bed: Bed) -> dict[str, Any]:
        seen = {}
        for task_id, meta in bed.client.backend.get_many([result.id for result in self._results], timeout=100):
            seen[task_id] = meta["result"]
            if len(seen) >= SQUARES // 3:
                self.amid.set()
        return seen

    def check(self, bed: Bed) -> None:
        """Wait for everything and compare it with what is computed here."""
        right = [{"number": number, "square": number * number} for number in range(SQUARES)]
        assert self._joined.result() == right
        assert self._last.result() == right[-1]
        assert self._seen.result() == {result.id: value for result, value in zip(self._results, right, strict=True)}
        assert self._body.get(timeout=60) == {"chord": 1, "values": [[1, index] for index in range(PARTS)]}
        rows = bed.client.backend.store.get_many([result.id for result in self._results])
        assert {record.state for record in rows.values()} == {"SUCCESS"}
        runs = Counter(bed.faults.notes())
        # who called the body may have waited for the server for longer than its claim held
        assert 1 <= runs.pop("body 1") <= 2
        assert runs == {f"square {number}": 1 for number in range(SQUARES)}, "nothing was run twice"
