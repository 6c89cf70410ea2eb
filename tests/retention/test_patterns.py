"""The table of common patterns in docs/retention.md: what it tells the user to write has the promised effect."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context

from rootcellar.testing.thread_worker import worker_in_thread
from tests.helpers import now
from tests.retention.test_levels import app_of

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


def kept_for(app: Celery, state: str = "SUCCESS", value: Any = 1) -> timedelta | None:
    """Store a result; return how long it is kept, ``None`` for ever."""
    result = ValueError("x") if state == "FAILURE" else value
    app.backend.store_result("an-id", result, state, request=Context(id="an-id", task="reports.daily"))
    expires_at = app.backend.store.get("an-id").expires_at
    return None if expires_at is None else expires_at - now()


def is_about(found: timedelta | None, wanted: timedelta) -> bool:
    return found is not None and abs(found - wanted) < MINUTE


def test_one_time_for_all_results_counts(tmp_path: Path) -> None:
    app = app_of(tmp_path, result_expires=timedelta(days=7))
    assert is_about(kept_for(app), 7 * DAY)
    assert is_about(kept_for(app, "FAILURE"), 7 * DAY)


@pytest.mark.parametrize("value", [None, 0])
def test_all_results_are_kept_for_ever(tmp_path: Path, value: int | None) -> None:
    app = app_of(tmp_path, result_expires=value)
    assert kept_for(app) is None
    assert app.backend.cleanup() is None
    assert app.AsyncResult("an-id").get(timeout=30) == 1


def test_only_failures_are_kept_longer(tmp_path: Path) -> None:
    app = app_of(tmp_path, result_expires=DAY, result_failure_expires="30d")
    assert is_about(kept_for(app, "FAILURE"), 30 * DAY)
    app.AsyncResult("an-id").forget()
    assert is_about(kept_for(app), DAY)


def test_only_large_results_are_kept_for_a_short_time(tmp_path: Path) -> None:
    app = app_of(tmp_path, result_expires=7 * DAY, result_retention=[{"larger_than": "1KB", "keep": "1h"}])
    assert is_about(kept_for(app, value="x" * 2_000), timedelta(hours=1))
    app.AsyncResult("an-id").forget()
    assert is_about(kept_for(app, value="x"), 7 * DAY)


@pytest.mark.parametrize("conf", [{}, {"task_ignore_result": True}], ids=["of one task", "of all"])
def test_ignored_results_are_not_stored(tmp_path: Path, conf: dict[str, Any]) -> None:
    app = app_of(tmp_path, **conf)

    @app.task(shared=False, name="mail.send", **({} if conf else {"ignore_result": True}))
    def send(number: int) -> int:
        sent.append(number)
        return number

    @app.task(shared=False, name="mail.read", ignore_result=False)
    def read(number: int) -> int:
        return number

    sent: list[int] = []
    with worker_in_thread(app, concurrency=1):
        ignored, result = send.delay(1), read.delay(2)
        # one thread runs both in their order
        assert result.get(timeout=60) == 2
    assert sent == [1]
    assert app.backend.store.get(ignored.id) is None


def test_result_is_forgotten_after_it_was_read(tmp_path: Path) -> None:
    app = app_of(tmp_path)

    @app.task(shared=False, name="reports.daily")
    def report() -> int:
        return 7

    with worker_in_thread(app, concurrency=1):
        result = report.delay()
        assert result.get(timeout=60) == 7
        result.forget()
    assert app.backend.store.get(result.id) is None
    assert app.AsyncResult(result.id).state == "PENDING"
