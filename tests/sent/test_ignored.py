"""With ``result_history = "ignored too"``, tasks that ignore their results leave name, state and times."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime, timezone
from typing import Any

import pytest
from celery import chord
from celery.app.task import Context

from rootcellar.backend.exceptions import TaskFailed
from rootcellar.records import TaskRecord
from rootcellar.testing.conformance_app import make_app
from rootcellar.testing.harness import Harness
from rootcellar.testing.helpers import PATIENCE, new_id, wait_until

KEPT = {"result_history": "ignored too", "result_extended": True}


def ignoring(harness: Harness, name: str, *args: Any, **options: Any) -> Any:
    """Send a task whose result is ignored; return its result as another client sees it."""
    task = harness.app.tasks[f"conformance.{name}"]
    return harness.app.AsyncResult(task.apply_async(args, ignore_result=True, **options).id)


def ended(harness: Harness, result: Any) -> TaskRecord:
    found: TaskRecord = wait_until(lambda: harness.backend.store.get(result.id), "the end is stored")
    return found


def test_success_is_kept_without_result_and_arguments(harness: Harness) -> None:
    before = datetime.now(timezone.utc)
    result = ignoring(harness, "add", 1, 2)
    found = ended(harness, result)
    assert (found.state, found.name, found.queue) == ("SUCCESS", "conformance.add", "celery")
    assert found.worker is not None
    assert found.sent_at is not None
    assert found.started_at is not None
    assert found.done_at is not None
    assert before <= found.sent_at <= found.started_at <= found.done_at
    assert (found.result, found.args, found.kwargs, found.children, found.stamps) == (None,) * 5
    assert (result.get(timeout=PATIENCE), result.state, result.args) == (None, "SUCCESS", None)


def test_failure_is_kept_without_its_error(harness: Harness) -> None:
    result = ignoring(harness, "fail", "a secret")
    found = ended(harness, result)
    assert (found.state, found.result, found.traceback, found.args) == ("FAILURE", None, None, None)
    with pytest.raises(TaskFailed, match="the error is not stored"):
        result.get(timeout=PATIENCE)


def test_retried_task_is_kept_once_it_has_ended(harness: Harness) -> None:
    found = ended(harness, ignoring(harness, "retry_until", 2))
    assert (found.state, found.retries) == ("SUCCESS", 2)


def test_expired_task_is_kept_as_revoked(harness: Harness) -> None:
    found = ended(harness, ignoring(harness, "add", 1, 2, expires=-1))
    assert (found.state, found.name, found.result) == ("REVOKED", "conformance.add", None)


def test_task_of_a_lost_worker_is_kept_as_failed(harness: Harness) -> None:
    if harness.under_test.pool != "prefork":
        pytest.skip("this ends the worker itself")
    found = ended(harness, ignoring(harness, "lose_worker"))
    assert (found.state, found.result) == ("FAILURE", None)


def test_ignore_and_reject_leave_nothing(harness: Harness) -> None:
    left = [ignoring(harness, "ignore"), ignoring(harness, "reject")]
    for _ in range(harness.slots):
        ended(harness, ignoring(harness, "add", 1, 2))
    harness.tasks.add.delay(1, 2).get(timeout=PATIENCE)
    assert harness.backend.store.get_many([result.id for result in left]) == {}


def test_chord_whose_parts_ignore_their_results_ends_as_before(harness: Harness) -> None:
    parts = [harness.tasks.add.s(number, 1).set(ignore_result=True) for number in range(3)]
    result = chord(parts, harness.tasks.total.s()).delay()
    assert result.get(timeout=PATIENCE) == 6
    assert harness.backend.store.get_many([one.id for one in result.parent.results]) == {}


def test_stored_result_is_kept_whole(harness: Harness) -> None:
    result = harness.tasks.add.delay(1, 2)
    assert result.get(timeout=PATIENCE) == 3
    found = harness.backend.store.get(result.id)
    assert found is not None
    assert found.args is not None


@pytest.mark.parametrize("history", [None, "ignored too"])
def test_nothing_is_kept_that_the_user_did_not_ask_for(tmp_path: Any, history: str | None) -> None:
    app = make_app("memory://", f"rootcellar+sqlite:///{tmp_path}/results.sqlite3", result_history=history)
    silent = {"task": "conformance.add", "ignore_result": True, "delivery_info": {}}
    with closing(app.backend.store):
        ids = [new_id() for _ in range(4)]
        app.backend.mark_as_done(ids[0], 1, request=Context(id=ids[0], **silent), store_result=False)
        app.backend.mark_as_done(ids[1], 1, request=Context(id=ids[1], **silent, is_eager=True), store_result=False)
        app.backend.mark_as_done(ids[2], 1, request=Context(id=ids[2], task="conformance.add"), store_result=False)
        app.backend.mark_as_done(ids[3], 1, request=Context(id="another", **silent), store_result=False)
        assert set(app.backend.store.get_many(ids)) == (set(ids[:1]) if history else set())
