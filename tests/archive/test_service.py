"""The service of a worker that archives by the rules."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from rootcellar.backend import lifecycle
from rootcellar.maintenance.archive import Archive
from rootcellar.maintenance.cleanup import Cleanup
from rootcellar.maintenance.signals import Signal
from tests.archive.runs import archived, everything, live, parquet
from tests.helpers import record

_RULES = [{"task": "shop.*", "keep": "1d", "then": "archive", "archive_for": "1y"}]


def new_app(tmp_path: Path, **conf: Any) -> Celery:
    app = Celery("archived", broker="memory://", backend=f"rootcellar+sqlite:///{tmp_path}/results.sqlite3")
    app.conf.update({"result_retention": _RULES, "result_archive": str(tmp_path / "archive"), **conf})
    return app


def service_of(app: Celery) -> Archive:
    (found,) = (service for service in app.backend._services.services if isinstance(service, Archive))
    return found


def fill_with_expired(store: Any) -> None:
    then = datetime.now(timezone.utc) - timedelta(days=2)
    for number in range(9):
        store.put(record(value=number, name="shop.sell", done_at=then, expires_at=then + timedelta(days=1)))
    store.put(record(name="other", done_at=then, expires_at=then + timedelta(days=1)))
    store.put(record(name="shop.sell", expires_at=then + timedelta(days=9)))


@pytest.fixture
def app(tmp_path: Path) -> Any:
    app = new_app(tmp_path)
    yield app
    lifecycle.close_all()


def test_worker_archives_what_has_expired_and_cleans_up_the_rest(app: Any, tmp_path: Path) -> None:
    store = app.backend.store
    fill_with_expired(store)
    before = live(store)
    (cleanup,) = (service for service in app.backend._services.services if isinstance(service, Cleanup))
    assert cleanup.clean().tasks == 1
    service = service_of(app)
    assert service.run_once() == 9
    assert len(archived(store, tmp_path / "archive")) == 9
    left = everything(store, tmp_path / "archive")
    assert left == {task_id: one for task_id, one in before.items() if one.name != "other"}
    assert service.run_once() == 0
    assert len(parquet(tmp_path / "archive")) == 1
    (file,) = store.files()
    assert file.expires_at == max(one.expires_at for one in archived(store, tmp_path / "archive").values()) + timedelta(
        days=365
    )


def test_run_that_archived_something_is_logged(app: Any, caplog: pytest.LogCaptureFixture) -> None:
    fill_with_expired(app.backend.store)
    caplog.set_level("INFO")
    service_of(app).run_once()
    assert "Archive: Archived 9 results in 1 file." in caplog.text
    caplog.clear()
    service_of(app).run_once()
    assert caplog.text == ""


def test_run_is_on_record(app: Any) -> None:
    store = app.backend.store
    fill_with_expired(store)
    service_of(app).run_once()
    job = store.jobs()["archive"]
    assert (job.done, job.has_failed, job.is_open) == (9, False, False)
    assert job.note == "Archived 9 results in 1 file."


def test_result_of_an_archived_task_is_still_read(app: Any) -> None:
    store = app.backend.store
    fill_with_expired(store)
    task_id = next(one.task_id for one in live(store).values() if one.result and one.result.body == b"3")
    service_of(app).run_once()
    assert store.get(task_id) is None
    assert app.AsyncResult(task_id).get(timeout=5) == 3


def test_service_of_a_worker_runs_by_itself_and_stops(app: Any) -> None:
    store = app.backend.store
    fill_with_expired(store)
    service = service_of(app)
    service._config = type(service._config)(archive_interval=0.01)
    service.start()
    service.signals.wait_for_done(9)
    assert service.stop()
    assert service.signals.count(Signal.FAILED) == 0


@pytest.mark.parametrize(
    "conf",
    [
        {"result_archive": None},
        {"result_retention": [{"keep": "1d"}]},
        {"result_backend_transport_options": {"cleanup_interval": 0}},
    ],
    ids=["no archive", "no rule", "switched off"],
)
def test_worker_has_no_service_without(tmp_path: Path, conf: dict[str, Any]) -> None:
    app = new_app(tmp_path, **conf)
    assert not any(isinstance(service, Archive) for service in app.backend._services.services)
    lifecycle.close_all()
