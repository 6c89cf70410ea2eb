"""What one process counts: of its calls, its errors, its waits and its notifications."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from billiard import Process
from celery import Celery
from celery.local import Proxy
from prometheus_client import CollectorRegistry, generate_latest

import rootcellar
from rootcellar.errors import ConfigurationError, DriverMissing, StoreUnavailable
from rootcellar.metrics import catalogue
from rootcellar.metrics.cells import Cells, SharedRows, anonymous
from rootcellar.metrics.families import exposition
from rootcellar.metrics.instrument import Instruments
from rootcellar.metrics.recorder import KINDS, WIDTH, Recorder, kind_of
from rootcellar.payloads.errors import NotEncodable
from rootcellar.stores.base import Store
from rootcellar.stores.pool import ConnectionPool
from rootcellar.stores.sqlite import SQLiteStore
from tests.helpers import wait_until
from tests.metrics.scraping import Samples, parsed, value
from tests.servers import PostgresServer

COUNT = "rootcellar_store_duration_seconds_count"


@contextmanager
def instrumented(url: str, **settings: Any) -> Iterator[tuple[Celery, Instruments]]:
    """Return an app whose backend is observed."""
    app = Celery("observed", backend=f"rootcellar+{url}", set_as_current=False)
    app.conf.update(settings)
    made = rootcellar.instrument(app, listen=None)
    yield app, made
    app.backend.store.close()


def samples(made: Instruments) -> Samples:
    return parsed(exposition(made.families())[0].decode())


def calls(made: Instruments, operation: str, outcome: str = "ok") -> float:
    return value(samples(made), COUNT, {"operation": operation, "outcome": outcome})


def test_calls_and_sizes_are_counted(tmp_path: Any) -> None:
    with instrumented(f"sqlite:///{tmp_path}/results.sqlite3") as (app, made):
        app.backend.store_result("one", "x" * 98, "SUCCESS")
        app.backend.store_result("two", ValueError("no"), "FAILURE")
        app.backend.store_result("three", None, "BREWING")
        assert app.AsyncResult("one").get(timeout=30) == "x" * 98
        found = samples(made)
        assert (calls(made, "put"), calls(made, "get"), calls(made, "put", "error")) == (3, 1, 0)
        stored = {"direction": "stored", "state": "SUCCESS"}
        assert value(found, "rootcellar_payload_bytes_sum", stored) == 100
        assert value(found, "rootcellar_payload_bytes_bucket", {**stored, "le": "64.0"}) == 0
        assert value(found, "rootcellar_payload_bytes_bucket", {**stored, "le": "256.0"}) == 1
        assert value(found, "rootcellar_payload_bytes_count", {"direction": "stored", "state": "other"}) == 1
        assert value(found, "rootcellar_payload_bytes_count", {"direction": "read", "state": "SUCCESS"}) == 1
        assert value(found, "rootcellar_pool_connections", {"status": "idle"}) == 1
        assert value(found, "rootcellar_build_info", {"version": "0.1.0", "store": "sqlite"}) == 1


def test_registry_of_the_application_has_the_metrics(tmp_path: Any) -> None:
    with instrumented(f"sqlite:///{tmp_path}/results.sqlite3") as (app, made):
        registry = CollectorRegistry()
        registry.register(made)
        app.backend.store_result("one", 1, "SUCCESS")
        found = parsed(generate_latest(registry).decode())
        assert value(found, COUNT, {"operation": "put", "outcome": "ok"}) == 1


def test_errors_are_counted_by_kind_and_retries_by_number(new_postgres: Callable[..., PostgresServer]) -> None:
    server = new_postgres(auth="trust")
    with instrumented(
        server.create_database(), result_backend_max_retries=2, result_backend_base_sleep_between_retries_ms=1
    ) as (app, made):
        app.backend.store_result("one", 1, "SUCCESS")
        server.stop()
        with pytest.raises(StoreUnavailable):
            app.backend.store.get("one")
        with pytest.raises(rootcellar.errors.RootcellarError):
            app.backend.store_result("two", 1, "SUCCESS")
        found = samples(made)
        errors = "rootcellar_store_errors_total"
        assert value(found, errors, {"operation": "get", "kind": "store-unavailable"}) == 1
        assert value(found, errors, {"operation": "put", "kind": "store-unavailable"}) == 3
        assert value(found, "rootcellar_store_retries_total") == 2
        assert (calls(made, "put"), calls(made, "put", "error")) == (1, 3)


def test_state_that_is_stored_late_is_counted_until_it_is_stored(tmp_path: Any) -> None:
    is_up = threading.Event()

    def write() -> None:
        if not is_up.is_set():
            raise StoreUnavailable("down")

    with instrumented(f"sqlite:///{tmp_path}/results.sqlite3") as (app, made):
        app.backend._interim.store("one", write, lambda: False, "store STARTED of task one")
        assert value(samples(made), "rootcellar_late_results") == 1
        assert value(samples(made), "rootcellar_store_retries_total") >= 1
        is_up.set()
        wait_until(lambda: value(samples(made), "rootcellar_late_results") == 0, "the state is stored")


def test_series_of_common_operations_exist_from_the_start(tmp_path: Any) -> None:
    with instrumented(f"sqlite:///{tmp_path}/results.sqlite3") as (_, made):
        found = samples(made)
        assert value(found, "rootcellar_store_errors_total", {"operation": "put", "kind": "store-unavailable"}) == 0
        assert value(found, COUNT, {"operation": "put", "outcome": "error"}) == 0
        assert value(found, "rootcellar_store_retries_total") == 0
        assert (COUNT, (("operation", "put_group"), ("outcome", "ok"))) not in found


def test_error_of_another_package_is_counted_as_the_one_it_extends() -> None:
    class Overloaded(StoreUnavailable):
        pass

    Overloaded.__module__ = "cellar"
    assert kind_of(Overloaded("busy")) == "store-unavailable"
    assert kind_of(NotEncodable("x")) in (*KINDS, "other")
    assert kind_of(ValueError("x")) == "other"


def test_waiters_and_notifications_are_counted(postgres_url: str) -> None:
    with instrumented(postgres_url) as (app, made):
        app.backend.store.check()
        got: list[object] = []
        client = threading.Thread(target=lambda: got.append(app.AsyncResult("one").get(timeout=60)))
        client.start()
        wait_until(lambda: value(samples(made), "rootcellar_waiters") == 1, "the client waits")
        app.backend.store_result("one", 1, "SUCCESS")
        client.join(60)
        assert got == [1]
        found = samples(made)
        assert (value(found, "rootcellar_waiters"), value(found, "rootcellar_notifications_total")) == (0, 1)


def test_results_that_the_cleanup_deletes_are_counted(tmp_path: Any) -> None:
    with instrumented(f"sqlite:///{tmp_path}/results.sqlite3", result_expires=0.001) as (app, made):
        for number in range(3):
            app.backend.store_result(f"{number}", 1, "SUCCESS")
        wait_until(lambda: app.backend.cleanup() or calls_deleted(made) == 3, "they expire")


def calls_deleted(made: Instruments) -> float:
    return value(samples(made), "rootcellar_cleanup_deleted_total")


def test_wait_for_a_connection_is_counted(tmp_path: Any) -> None:
    with instrumented(f"sqlite:///{tmp_path}/results.sqlite3") as (_, made):
        pool = ConnectionPool(
            object,
            close=lambda it: None,
            alive=bool,
            usable=bool,
            size=1,
            timeout=60.0,
            recycle=-1,
            ping=False,
            where="here",
        )
        before = value(samples(made), "rootcellar_pool_wait_seconds_count")
        got = threading.Event()

        def take() -> None:
            with pool.connection():
                got.set()

        with pool.connection():
            other = threading.Thread(target=take)
            other.start()
            wait_until(lambda: pool._state.get().queue, "the other thread waits")
        assert got.wait(60)
        other.join()
        assert value(samples(made), "rootcellar_pool_wait_seconds_count") == before + 1


def test_process_that_forks_counts_for_itself(tmp_path: Any) -> None:
    with instrumented(f"sqlite:///{tmp_path}/results.sqlite3") as (app, made):
        app.backend.store_result("one", 1, "SUCCESS")
        child = os.fork()
        if not child:
            app.backend.store_result("two", 1, "SUCCESS")
            os._exit(int(calls(made, "put") != 1))
        assert os.waitpid(child, 0)[1] == 0
        assert calls(made, "put") == 1


def test_child_that_replaces_another_goes_on_with_its_numbers() -> None:
    recorder = Recorder()
    recorder.share(anonymous(WIDTH))
    for _ in range(3):
        child = os.fork()
        if not child:
            recorder.join(1)
            recorder.retried()
            recorder.sample()
            os._exit(0)
        os.waitpid(child, 0)
    recorder.retried()
    found = parsed(exposition(recorder.families())[0].decode())
    assert value(found, "rootcellar_store_retries_total") == 4


def test_process_that_a_task_forks_does_not_add_to_the_row_of_the_task() -> None:
    recorder = Recorder()
    recorder.share(anonymous(WIDTH))
    recorder.retried()
    child = os.fork()
    if not child:
        recorder.retried()
        os._exit(0)
    os.waitpid(child, 0)
    found = parsed(exposition(recorder.families())[0].decode())
    assert value(found, "rootcellar_store_retries_total") == 1


def test_gauges_of_processes_that_ended_are_not_added() -> None:
    rows = anonymous(4)
    child = os.fork()
    if not child:
        rows.claim(1)[0] = 5.0
        os._exit(0)
    os.waitpid(child, 0)
    rows.claim(0)[0] = 2.0
    counted, current = rows.sums()
    assert (counted[0], current[0]) == (7.0, 2.0)


class _Failing:
    """Something that cannot be asked the first time; the thread that asks it ends when the test is over."""

    def __init__(self) -> None:
        self.is_over = threading.Event()
        self.asked = 0

    def awaited(self) -> int:
        self.asked += 1
        if self.is_over.is_set():
            raise SystemExit
        if self.asked == 1:
            raise LookupError("not now")
        return 3


def test_figures_of_a_child_go_on_after_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rootcellar.metrics.instrument.SAMPLE_SECONDS", 0.01)
    made = Instruments(Celery("failing", set_as_current=False), None)
    failing = _Failing()
    made._recorder.add_waiter(failing)

    def run() -> None:
        with suppress(SystemExit):
            made._sample()

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: failing.asked > 2 or not thread.is_alive(), "it is asked again")
    assert failing.asked > 2
    failing.is_over.set()
    thread.join()
    assert caplog.text.count("Figures of this process are old") == 1


def test_figures_are_read_while_a_thread_makes_a_backend() -> None:
    class Changing(weakref.WeakSet[Any]):
        is_changed = False

        def __iter__(self) -> Iterator[Any]:
            if not self.is_changed:
                self.is_changed = True
                raise RuntimeError("Set changed size during iteration")
            return super().__iter__()

    recorder = Recorder()
    recorder._waiters = Changing()
    recorder.sample()
    assert recorder._waiters.is_changed


def test_place_beyond_the_last_row_is_refused() -> None:
    recorder = Recorder()
    recorder.share(anonymous(WIDTH))
    assert not recorder.join(SharedRows.ROWS)


class SlowRow(list[float]):
    """A row whose reads let other threads run, as may happen between the reading and the writing of a number."""

    def __getitem__(self, place: Any) -> Any:
        number = super().__getitem__(place)
        time.sleep(0)
        return number


def test_threads_lose_no_count() -> None:
    row: Any = SlowRow([0.0, 0.0, 0.0, 0.0])
    cells = Cells(row)

    def add() -> None:
        for _ in range(500):
            cells.add(0)
            cells.observe(1, (1.0,), 2.0)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert list(row) == [2_000.0, 0.0, 2_000.0, 4_000.0]


def test_each_place_in_a_pool_has_a_row_of_its_own() -> None:
    with instrumented("sqlite:///unused.sqlite3") as (_, made):
        made._recorder.share(anonymous(WIDTH))

        def number_of_row() -> None:
            made._on_child()
            assert made._recorder._claim is not None
            os._exit(made._recorder._claim[1])

        children = [Process(target=number_of_row) for _ in range(3)]
        for place, child in enumerate(children):
            # as the pool does
            child.index = place
            child.start()
        for child in children:
            child.join()
        assert [child.exitcode for child in children] == [1, 2, 3]


def test_app_without_instruments_has_the_store_itself(tmp_path: Any) -> None:
    app = Celery("plain", backend=f"rootcellar+sqlite:///{tmp_path}/results.sqlite3", set_as_current=False)
    assert type(app.backend.store) is SQLiteStore


def test_backend_that_was_used_cannot_be_instrumented(tmp_path: Any) -> None:
    app = Celery("late", backend=f"rootcellar+sqlite:///{tmp_path}/results.sqlite3", set_as_current=False)
    assert isinstance(app.backend.store, Store)
    with pytest.raises(ConfigurationError, match="used before"):
        rootcellar.instrument(app)


def test_app_is_instrumented_once() -> None:
    app = Celery("twice", set_as_current=False)
    rootcellar.instrument(app, listen=None)
    with pytest.raises(ConfigurationError, match="already"):
        rootcellar.instrument(app, listen=None)


def test_app_may_be_given_by_a_proxy(tmp_path: Any) -> None:
    app = Celery("behind", backend=f"rootcellar+sqlite:///{tmp_path}/results.sqlite3", set_as_current=False)
    made = rootcellar.instrument(Proxy(lambda: app), listen=None)
    app.backend.store_result("one", 1, "SUCCESS")
    assert calls(made, "put") == 1
    app.backend.store.close()


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(DriverMissing) as raised:
        rootcellar.instrument(Celery("missing", set_as_current=False))
    assert "pip install 'rootcellar[metrics]'" in str(raised.value)


def test_every_metric_of_a_process_is_exported(tmp_path: Any) -> None:
    with instrumented(f"sqlite:///{tmp_path}/results.sqlite3") as (_, made):
        assert {family.metric for family in made.families()} == set(catalogue.OF_A_PROCESS)


def test_worker_that_loads_no_metrics_imports_no_prometheus(tmp_path: Any) -> None:
    program = (
        "import sys, celery, rootcellar\n"
        f"app = celery.Celery(backend='rootcellar+sqlite:///{tmp_path}/x.sqlite3', set_as_current=False)\n"
        "app.backend.store_result('one', 1, 'SUCCESS')\n"
        "print([name for name in sys.modules if name.startswith(('prometheus_client', 'rootcellar.metrics'))])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
