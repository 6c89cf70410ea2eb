"""The services that a worker's main process runs, from its start to its end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, signals

from rootcellar.backend import lifecycle
from rootcellar.maintenance.chord_sweep import ChordSweep
from rootcellar.maintenance.cleanup import Cleanup
from rootcellar.maintenance.deferred_writes import DeferredWrites
from rootcellar.maintenance.drain import Drain
from rootcellar.maintenance.roll_up import RollUp
from rootcellar.maintenance.signals import Signal
from rootcellar.stores.counting import Question
from rootcellar.stores.hybrid import WriteBehindStore
from rootcellar.stores.journal import WritesBehind
from tests.servers import RedisServer

PATIENCE = 30.0


def new_app(backend: str, **options: Any) -> Celery:
    return Celery(
        "services",
        broker="memory://",
        backend=f"rootcellar+{backend}",
        result_backend_transport_options={"chord_sweep_interval": 0.01, **options},
        set_as_current=False,
    )


def test_services_start_with_the_worker_and_stop_at_its_end(tmp_path: Path) -> None:
    app = new_app(f"sqlite:///{tmp_path}/results.sqlite3")
    backend = app.backend
    services = {type(service): service for service in backend._services.services}
    assert set(services) == {DeferredWrites, ChordSweep, RollUp, Cleanup}
    assert not any(service.is_running for service in services.values())
    signals.worker_ready.send(sender=_Sender(app))
    services[ChordSweep].signals.wait(Signal.RAN, 3)
    assert all(service.is_running for service in services.values())
    signals.worker_shutdown.send(sender=_Sender(app))
    assert all(service.signals.count(Signal.STOPPED) == 1 for service in services.values())
    lifecycle.close_all()


def test_worker_of_a_hybrid_drains_it_until_its_end(postgres_url: str, new_redis: Callable[..., RedisServer]) -> None:
    app = new_app(
        "hybrid://",
        durable_url=postgres_url,
        cache_url=new_redis(appendonly=True).url,
        mode="write-behind",
    )
    backend = app.backend
    assert isinstance(backend.store, WritesBehind)
    assert isinstance(backend.store, WriteBehindStore)
    (drain,) = (service for service in backend._services.services if isinstance(service, Drain))
    backend.store_result("one", 42, "SUCCESS")
    backend.start_services()
    drain.signals.wait_for_done(1)
    assert backend.store.durable.get("one") is not None
    backend.stop_services()
    assert drain.signals.count(Signal.STOPPED) == 1
    backend.store_result("two", 42, "SUCCESS")
    assert backend.store.lag().waiting == 1, "a stopped service moves no results"
    backend.store.close()


def test_unfinished_write_is_logged_at_the_workers_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    app = new_app(f"sqlite:///{tmp_path}/results.sqlite3")
    backend = app.backend
    backend.start_services()
    late = backend._late
    assert late.stop(PATIENCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(late, "start", lambda: None)
        assert not late.submit(lambda: None, "store SUCCESS of task one", float("inf"))
    backend.stop_services()
    assert "Gave up, because the worker ends: could not store SUCCESS of task one" in caplog.text
    backend.store.close()


class _Sender:
    """The sender of Celery's signals."""

    def __init__(self, app: Celery) -> None:
        self.app = app


def test_a_worker_counts_results_unless_the_interval_is_0(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/results.sqlite3"
    assert not any(
        isinstance(service, RollUp) for service in new_app(url, statistics_interval=0).backend._services.services
    )
    backend = new_app(url, statistics_interval=0.01).backend
    (counting,) = (service for service in backend._services.services if isinstance(service, RollUp))
    backend.store_result("one", 42, "SUCCESS")
    backend.start_services()
    counting.signals.wait_for_done(1)
    backend.stop_services()
    assert counting.signals.count(Signal.STOPPED) == 1
    (cell,) = backend.store.counts(Question()).cells
    assert (cell.state, cell.tally.count) == ("SUCCESS", 1)
    lifecycle.close_all()


def test_a_worker_cleans_up_unless_the_interval_is_0_or_the_server_does_it(tmp_path: Path, redis_url: str) -> None:
    def cleans(backend: str, **conf: Any) -> bool:
        app = new_app(backend, **conf.pop("options", {}))
        app.conf.update(conf)
        return any(isinstance(service, Cleanup) for service in app.backend._services.services)

    url = f"sqlite:///{tmp_path}/results.sqlite3"
    assert cleans(url)
    assert not cleans(url, options={"cleanup_interval": 0})
    assert not cleans(redis_url)
    with_blobs = {"result_too_large": "spill", "result_blob_url": f"file://{tmp_path}/blobs", "result_max_size": 1_000}
    assert cleans(redis_url, **with_blobs), "only a cleanup deletes blobs"
    lifecycle.close_all()
