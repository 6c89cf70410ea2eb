"""An outage of PostgreSQL during 1,000 tasks: every result is stored once and is correct."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import chord
from celery.result import AsyncResult, GroupResult

from rootcellar.testing.background import Background
from tests.faults.helpers import Audit, Cluster
from tests.helpers import HEAVY
from tests.servers import PostgresServer, RedisServer

#: tasks for each of two crowds, 1,000 in all (heavy: 2,000)
SQUARES = 800 if HEAVY else 400
PARTS = 200 if HEAVY else 100
LATE = {"task_acks_late": True, "task_reject_on_worker_lost": True}
EARLY = {"task_acks_late": False}


def killed(server: PostgresServer, await_failure: Callable[[], None]) -> None:
    server.kill()
    await_failure()
    server.start()


def shut_down(server: PostgresServer, await_failure: Callable[[], None]) -> None:
    server.stop()
    await_failure()
    server.start()


def frozen(server: PostgresServer, await_failure: Callable[[], None]) -> None:
    server.pause()
    # so short a silence is not logged
    time.sleep(30 if HEAVY else 2)
    server.resume()


@pytest.mark.parametrize("outage", [killed, shut_down, frozen])
def test_results_survive_an_outage_during_tasks(
    outage: Callable[[PostgresServer, Callable[[], None]], None],
    new_postgres: Callable[..., PostgresServer],
    new_redis: Callable[..., RedisServer],
    tmp_path: Path,
) -> None:
    server = new_postgres()
    store = server.create_database()
    clusters = [
        Cluster(tmp_path, new_redis().url, store, task_track_started=True, **settings) for settings in (LATE, EARLY)
    ]
    clusters[0].create_tables()
    audit = Audit(store)
    workers = [cluster.worker(concurrency=4) for cluster in clusters]
    with clusters[0].workers(*workers):
        children = [worker.children() for worker in workers]
        crowds = [Crowd(cluster) for cluster in clusters]
        for crowd in crowds:
            assert crowd.a_third_is_done.wait(30), "a third of the tasks is done"

        def await_failure() -> None:
            # a fast worker may have done all of its tasks already
            for crowd in crowds:
                crowd.send_another()
            for worker in workers:
                worker.wait_for_log(r"Could not store \w+ of task .*Trying again", timeout=60)

        outage(server, await_failure)
        for cluster, crowd in zip(clusters, crowds, strict=True):
            crowd.check(cluster)
        assert audit.overwritten() == []
        assert set(audit.successes().values()) == {1}, "each result is stored once"
        assert len(audit.successes()) == sum(crowd.size for crowd in crowds)
        assert [worker.children() for worker in workers] == children, "no process was replaced"
        for cluster in clusters:
            assert cluster.task("square").delay(4).get(timeout=20) == {"number": 4, "square": 16}


class Crowd:
    """Tasks, some of them in a chord, and clients that wait for them."""

    def __init__(self, cluster: Cluster) -> None:
        square, part, body = cluster.task("square"), cluster.task("part"), cluster.task("body")
        self._square = square
        self._others: list[AsyncResult] = []
        self.a_third_is_done = threading.Event()
        self._results = [square.delay(number, 0.005) for number in range(SQUARES // 2)]
        self._body = chord([part.s(1, index) for index in range(PARTS)], body.s(1), app=cluster.client).delay()
        self._results += [square.delay(number, 0.005) for number in range(SQUARES // 2, SQUARES)]
        group = GroupResult(results=self._results, app=cluster.client)
        again = [cluster.client.AsyncResult(result.id) for result in self._results]
        self._joined = Background(lambda: group.join(timeout=100))
        self._last = Background(lambda: again[-1].get(timeout=100))
        self._seen = Background(lambda: self._read(cluster))

    @property
    def size(self) -> int:
        """The number of tasks."""
        return SQUARES + PARTS + 1 + len(self._others)

    def send_another(self) -> None:
        """Send one more task."""
        self._others.append(self._square.delay(SQUARES + len(self._others), 0.005))

    def _read(self, cluster: Cluster) -> dict[str, Any]:
        seen = {}
        for task_id, meta in cluster.client.backend.get_many([result.id for result in self._results], timeout=100):
            seen[task_id] = meta["result"]
            if len(seen) >= SQUARES // 3:
                self.a_third_is_done.set()
        return seen

    def check(self, cluster: Cluster) -> None:
        """Wait for all results and compare them with the expected ones."""
        right = [{"number": number, "square": number * number} for number in range(SQUARES)]
        assert self._joined.result() == right
        assert self._last.result() == right[-1]
        assert self._seen.result() == {result.id: value for result, value in zip(self._results, right, strict=True)}
        assert self._body.get(timeout=60) == {"chord": 1, "values": [[1, index] for index in range(PARTS)]}
        for number, other in enumerate(self._others, SQUARES):
            assert other.get(timeout=60) == {"number": number, "square": number * number}
        rows = cluster.client.backend.store.get_many([result.id for result in self._results])
        assert {record.state for record in rows.values()} == {"SUCCESS"}
        runs = Counter(cluster.faults.notes())
        # a worker that called the body may have waited for the server for longer than its claim held
        assert 1 <= runs.pop("body 1") <= 2
        assert runs == {f"square {number}": 1 for number in range(SQUARES + len(self._others))}, "no task ran twice"
