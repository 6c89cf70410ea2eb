"""States that are not final delay no task: tasks begin and continue during an outage of the store."""

from __future__ import annotations

import _thread
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis
from celery import Celery

from rootcellar.backend.interim import Interim
from rootcellar.errors import RecordRefused, StoreUnavailable
from rootcellar.support.backoff import Backoff
from rootcellar.support.outages import Outage
from tests.helpers import fork_in_c, wait_until
from tests.servers import PostgresServer, RedisServer
from tests.workers import Worker

LONG = 60.0


@pytest.mark.parametrize(
    ("store", "pool"), [("postgres", "prefork"), ("postgres", "threads"), ("postgres", "solo"), ("redis", "prefork")]
)
def test_task_runs_during_an_outage_of_the_store(
    store: str,
    pool: Any,
    new_postgres: Callable[..., PostgresServer],
    new_redis: Callable[..., RedisServer],
    redis_url: str,
) -> None:
    server = new_postgres() if store == "postgres" else new_redis(appendonly=True)
    backend = "rootcellar+" + (server.create_database() if isinstance(server, PostgresServer) else server.url)
    app = Celery("client", broker=redis_url, backend=backend, set_as_current=False)
    env = {"TEST_BROKER": redis_url, "TEST_BACKEND": backend}
    with redis.Redis.from_url(redis_url) as steps, Worker("tests.apps.steps", env=env, pool=pool) as worker:

        def send(name: str) -> Any:
            return app.send_task("tests.apps.steps.walk", (name,))

        def next_step(name: str) -> bytes:
            found = steps.blpop([name], LONG)
            assert found, f"{name} does not continue"
            return found[1]

        steps.rpush("go first", 1)
        assert send("first").get(timeout=LONG) == "first"
        server.stop()
        result = send("second")
        assert [next_step("second"), next_step("second")] == [b"began", b"went on"]
        server.start()
        wait_until(lambda: result.state == "WALKING", "the late state", LONG)
        assert result.info == {"at": 1}
        steps.rpush("go second", 1)
        assert result.get(timeout=LONG) == "second"
        assert result.state == "SUCCESS"
        assert worker.running
    app.backend.store.close()


def test_late_state_is_not_stored_after_a_later_one() -> None:
    interim = Interim(Backoff(1, 1), Outage())
    tries: list[str] = []
    may_store = threading.Event()
    tried_again = threading.Semaphore(0)

    def write(name: str) -> None:
        if not may_store.is_set():
            tried_again.release()
            raise StoreUnavailable("away")
        tries.append(name)

    interim.store("one", lambda: write("STARTED"), lambda: False, "store STARTED")
    interim.store("two", lambda: write("STARTED two"), lambda: False, "store STARTED of two")
    interim.store("one", lambda: write("PROGRESS"), lambda: False, "store PROGRESS")
    for _ in range(3):
        assert tried_again.acquire(timeout=20)
    interim.drop_earlier("one")
    may_store.set()
    wait_until(lambda: tries, "the other task's state")
    wait_until(lambda: not interim.waiting, "an empty queue")
    assert tries == ["STARTED two"]


def test_late_state_is_not_stored_over_the_end_of_its_task() -> None:
    """Another process has stored the final state."""
    interim = Interim(Backoff(1, 1), Outage())
    written: list[int] = []

    def write() -> None:
        if not written:
            written.append(1)
            raise StoreUnavailable("away")
        written.append(2)

    interim.store("one", write, lambda: True, "store STARTED")
    wait_until(lambda: not interim.waiting, "an empty queue")
    assert written == [1]


def test_unknown_error_of_a_state_does_not_block_others() -> None:
    interim = Interim(Backoff(1, 1), Outage())
    is_back = threading.Event()
    stored: list[str] = []

    def write(name: str) -> None:
        if not is_back.is_set():
            raise StoreUnavailable("away")
        if name == "odd":
            raise ZeroDivisionError
        stored.append(name)

    for name in ("odd", "sound"):
        interim.store(name, lambda name=name: write(name), lambda: False, f"store STARTED of {name}")  # type: ignore[misc]
    is_back.set()
    wait_until(lambda: not interim.waiting, "an empty queue")
    assert stored == ["sound"]


class LongInParent(Backoff):
    """Pauses that end only in a child."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self._parent = os.getpid()
        self.begun = threading.Event()

    def before(self, attempt: int) -> float:
        if os.getpid() != self._parent:
            return super().before(attempt)
        self.begun.set()
        return LONG


@pytest.mark.parametrize("fork", [os.fork, fork_in_c], ids=["in Python", "in C"])
def test_forked_child_stores_only_its_own_late_states(fork: Callable[[], int]) -> None:
    pauses = LongInParent()
    interim = Interim(pauses, Outage())
    is_back = threading.Event()
    stored: list[str] = []

    def store(name: str) -> None:
        def write() -> None:
            if not is_back.is_set():
                raise StoreUnavailable("away")
            stored.append(name)

        interim.store(name, write, lambda: False, f"store STARTED of {name}")

    def is_right_in_child() -> bool:
        signal.alarm(60)
        if interim.waiting:
            return False
        # the first of these states is late, and a second thread of the child stores at the same time
        other = threading.Thread(target=store, args=["other of child"])
        other.start()
        store("child")
        other.join()
        is_back.set()
        wait_until(lambda: not interim.waiting, "an empty queue")
        return sorted(stored) == ["child", "other of child"]

    store("parent")
    assert pauses.begun.wait(LONG)
    # as if another thread of the parent were storing a state at the moment of the fork
    with interim._late.get().lock:
        child = fork()
        if not child:
            status = 1
            try:
                status = 0 if is_right_in_child() else 1
            finally:
                os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert interim.waiting == 1
    is_back.set()
    assert interim._service.run_once() == 1
    assert stored == ["parent"]


def test_refused_state_raises_at_once() -> None:
    def refuse() -> None:
        raise RecordRefused("no")

    with pytest.raises(RecordRefused):
        Interim(Backoff(1, 1), Outage()).store("one", refuse, lambda: False, "store PROGRESS")


def test_state_is_stored_later_if_the_store_is_silent() -> None:
    interim = Interim(Backoff(1, 1), Outage(), max_wait=0.01)
    thawed = threading.Event()
    stored: list[str] = []

    def write() -> None:
        thawed.wait(60)
        stored.append("STARTED")

    interim.store("one", write, lambda: False, "store STARTED")
    assert not stored
    final = threading.Thread(target=lambda: (interim.drop_earlier("one"), stored.append("SUCCESS")))
    final.start()
    thawed.set()
    final.join(60)
    wait_until(lambda: not interim.waiting, "an empty queue")
    assert stored == ["STARTED", "SUCCESS"], (
        "a running attempt is waited for, so that it cannot overwrite the final state"
    )


def test_late_state_is_stored_when_a_thread_can_start(monkeypatch: pytest.MonkeyPatch) -> None:
    interim = Interim(Backoff(1, 1), Outage())
    is_away = threading.Event()
    stored: list[str] = []

    def refuse(function: object, args: object) -> int:
        raise RuntimeError("can't start new thread")

    def write() -> None:
        if not is_away.is_set():
            is_away.set()
            raise StoreUnavailable("away")
        stored.append("first")

    # this starts the thread that tries at once
    interim.store("warm", lambda: None, lambda: False, "store nothing")
    with monkeypatch.context() as patch:
        patch.setattr(_thread, "start_new_thread", refuse)
        interim.store("one", write, lambda: False, "store STARTED of one")
    assert interim.waiting == 1
    interim.store("two", lambda: stored.append("second"), lambda: False, "store STARTED of two")
    wait_until(lambda: not interim.waiting, "an empty queue")
    assert stored == ["first", "second"]
