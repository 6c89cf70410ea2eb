"""One backend for each process, and results that are pickled for another process."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from celery import group

from rootcellar.backend import ResultBackend
from rootcellar.testing.harness import Harness
from rootcellar.testing.helpers import in_threads
from rootcellar.testing.suites.backend.looking import WAIT
from rootcellar.testing.synced_processes import SyncedProcesses


class TestOneBackend:
    def test_eight_threads_share_one_backend(self, harness: Harness) -> None:
        client = harness.client()
        in_threads(8, lambda _: client.backend)  # Celery may make several at first, and keeps one of them
        first = client.backend
        assert isinstance(first, ResultBackend)
        for _ in range(5):
            assert all(backend is first for backend in in_threads(8, lambda _: client.backend))

    def test_pickled_result_works_in_another_process(self, harness: Harness, processes: SyncedProcesses) -> None:
        if not harness.under_test.store.shared:
            pytest.skip(f"{harness.under_test.store} is used by one process only")
        ok, failed = harness.tasks.add.delay(2, 3), harness.tasks.raise_.delay("own")
        members = group(harness.tasks.add.s(n, n) for n in range(3))()
        ok.get(timeout=WAIT)
        failed.get(timeout=WAIT, propagate=False)
        answers = processes.run_alike(1, _use_pickled, pickle.dumps([ok, failed, members, harness.backend]), ok.id)
        assert answers == [(5, "Own('text', 2, {'key': [None, 1.5]})", [0, 2, 4], 5, harness.backend.as_uri())]

    def test_pickled_result_works_in_its_own_process(self, harness: Harness) -> None:
        result = harness.tasks.add.delay(2, 3)
        again = pickle.loads(pickle.dumps(result))  # noqa: S301
        assert again == result
        assert again.get(timeout=WAIT) == 5
        backend = pickle.loads(pickle.dumps(harness.backend))  # noqa: S301
        assert backend.as_uri(include_password=True) == harness.backend.as_uri(include_password=True)
        assert backend.expires == harness.backend.expires

    def test_backend_hides_its_password(self, harness: Harness) -> None:
        backend = harness.backend
        whole = f"rootcellar+{harness.place}"
        assert backend.as_uri(include_password=True) == whole
        password = harness.place.partition("://")[2].rpartition("@")[0].partition(":")[2]
        shown = [backend.as_uri(), repr(backend), str(backend), backend.store.where, harness.app.bugreport()]
        if harness.worker is not None:
            log = harness.worker.log.read_text()
            assert "results:" in log, "the worker's banner names the backend"
            shown.append(log)
        for text in shown:
            assert not password or f":{password}@" not in text
        assert backend.as_uri().startswith(f"rootcellar+{harness.place.partition('://')[0]}://")


def _use_pickled(pickled: bytes, task_id: str, _: int) -> tuple[Any, ...]:
    ok, failed, members, backend = pickle.loads(pickled)  # noqa: S301
    answer = (
        ok.get(timeout=WAIT),
        repr(failed.get(timeout=WAIT, propagate=False)),
        members.join(timeout=WAIT),  # not `get`, which asks the other process's own app
        backend.get_task_meta(task_id)["result"],
        backend.as_uri(),
    )
    for one in (ok.backend, failed.backend, backend):
        one.store.close()
    return answer
