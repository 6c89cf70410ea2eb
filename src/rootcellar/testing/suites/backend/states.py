"""States: STARTED, progress, retries, states that are stored by hand."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import celery
import pytest
from celery.exceptions import (
    Reject,
    TaskRevokedError,
    TimeoutError,
)

from rootcellar.records import Payload, TaskRecord
from rootcellar.testing.celery_versions import (
    CELERY,
)
from rootcellar.testing.conformance_app import Own
from rootcellar.testing.gate import Gate
from rootcellar.testing.harness import Harness
from rootcellar.testing.helpers import new_id, wait_until
from rootcellar.testing.suites.backend.looking import WAIT, stored, until_idle


class TestStates:
    def test_started_task_names_its_process_and_times(self, harness: Harness, gate: Gate) -> None:
        result = harness.tasks.hold_started.delay(gate.port, "over")
        gate.await_arrival()
        assert (result.state, result.ready(), result.date_done) == ("STARTED", False, None)
        info = result.info
        assert info["hostname"]
        if harness.worker is not None:
            assert info["pid"] in (harness.worker.pid, *harness.worker.children())
        meta = harness.backend.get_task_meta(result.id)
        assert meta["date_sent"] <= meta["date_started"] <= datetime.now(timezone.utc)
        gate.let_through()
        assert result.get(timeout=WAIT) == "over"
        assert harness.backend.get_task_meta(result.id)["date_started"] == meta["date_started"]

    def test_running_task_is_pending_without_tracking(self, harness: Harness, gate: Gate) -> None:
        result = harness.tasks.hold.delay(gate.port, "over")
        gate.await_arrival()
        assert result.state == "PENDING"
        gate.let_through()
        assert result.get(timeout=WAIT) == "over"

    def test_progress_can_be_read(self, harness: Harness, gate: Gate) -> None:
        result = harness.tasks.progress.delay(gate.port, 2)
        for step in range(2):
            gate.await_arrival()
            assert (result.state, result.info) == ("PROGRESS", {"done": step, "of": 2})
            assert not result.ready()
            with pytest.raises(TimeoutError):
                result.get(timeout=0)
            gate.let_through()
        assert result.get(timeout=WAIT) == "done"

    def test_state_stored_by_hand_can_be_read(self, harness: Harness) -> None:
        task_id = new_id()
        harness.tasks.add.update_state(task_id=task_id, state="PAUSED", meta={"by": "hand", "n": 2**70})
        result = harness.app.AsyncResult(task_id)
        assert (result.state, result.info, result.ready()) == ("PAUSED", {"by": "hand", "n": 2**70}, False)

    def test_failure_stored_by_hand_is_overwritten(self, harness: Harness) -> None:
        result = harness.tasks.settle.delay("FAILURE")
        until_idle(harness)
        assert harness.app.AsyncResult(result.id).get(timeout=WAIT) == "returned"

    def test_success_stored_by_hand_is_not_overwritten(self, harness: Harness) -> None:
        assert harness.tasks.settle.delay("SUCCESS").get(timeout=WAIT) == {"by": "hand"}

    def test_failure_without_exception_can_be_read(self, harness: Harness) -> None:
        for meta in ({"reason": "none"}, "text", 7, None, [], {}, ["a"], {"exc_type": 5}, {"exc_type": None}):
            task_id = new_id()
            harness.backend.store_result(task_id, meta, "FAILURE")
            result = harness.app.AsyncResult(task_id)
            assert result.state == "FAILURE"
            assert result.info is None or isinstance(result.info, Exception)

    def test_retry_can_be_read_with_its_exception(self, harness: Harness) -> None:
        result = harness.tasks.retry_tomorrow.delay()
        wait_until(lambda: result.state == "RETRY", "the state RETRY")
        assert isinstance(result.info, Own)
        assert result.info.args == ("tomorrow", 1)
        assert "Own" in result.traceback
        assert not result.ready()
        first = harness.backend.get_task_meta(result.id)
        assert first["date_sent"] <= first["date_started"]
        result.revoke()
        if CELERY >= (5, 6):
            with pytest.raises(TaskRevokedError):
                result.get(timeout=WAIT)

    def test_date_sent_is_the_first_of_a_retried_task(self, harness: Harness) -> None:
        before = datetime.now(timezone.utc)
        result = harness.tasks.retry_until.delay(3)
        sent = datetime.now(timezone.utc)
        assert result.get(timeout=WAIT) == 3
        meta = harness.backend.get_task_meta(result.id)
        assert before <= meta["date_sent"] <= sent
        assert meta["date_sent"] < meta["date_started"] <= meta["date_done"]

    def test_task_fails_after_its_last_retry(self, harness: Harness) -> None:
        result = harness.tasks.retry_in_vain.delay()
        with pytest.raises(Own) as caught:
            result.get(timeout=WAIT)
        assert caught.value.args == ("never", 1)
        assert (result.state, result.retries) == ("FAILURE", 1)

    def test_task_that_waits_for_a_retry_has_no_children(self, harness: Harness) -> None:
        result = harness.tasks.retry_tomorrow.delay()
        wait_until(lambda: result.state == "RETRY", "the state RETRY")
        assert result.children == []
        result.revoke()
        if CELERY >= (5, 6):
            with pytest.raises(TaskRevokedError):
                result.get(timeout=WAIT)
        assert harness.app.AsyncResult(result.id).children == []

    @pytest.mark.parametrize("ends_with_child", [False, True])
    def test_retried_task_has_the_children_of_its_last_run(self, harness: Harness, ends_with_child: bool) -> None:
        result = harness.tasks.retry_with_children.delay(ends_with_child)
        last = result.get(timeout=WAIT)
        found = harness.app.AsyncResult(result.id)
        assert [child.id for child in found.children] == ([last] if ends_with_child else [])
        assert len([node.id for _, node in found.iterdeps(intermediate=True)]) == 1 + ends_with_child

    def test_relation_of_a_task_to_itself_is_left_out(self, harness: Harness) -> None:
        task_id, child = new_id(), [["child", None], None]
        own: list[Any] = [[task_id, None], None]
        children = [own, child, [["a group", None], [own, child]]]
        harness.backend.store.put(
            TaskRecord(
                task_id=task_id,
                state="FAILURE",
                parent_id=task_id,
                result=Payload(b"null"),
                children=Payload(json.dumps(children).encode()),
                done_at=datetime.now(timezone.utc),
            )
        )
        found = harness.app.AsyncResult(task_id)
        assert [one.id for one in found.children] == ["child", "a group"]
        assert [one.id for one in found.children[1].results] == ["child"]
        assert harness.backend.get_task_meta(task_id)["parent_id"] is None

    def test_autoretry_ends_with_a_success(self, harness: Harness) -> None:
        assert harness.tasks.retry_by_itself.delay().get(timeout=WAIT) == 2

    def test_rejected_task_ends_with_its_rejection(self, harness: Harness) -> None:
        result = harness.tasks.reject.delay()
        until_idle(harness)
        if celery.VERSION < (5, 7):
            assert (result.state, stored(harness, result.id)) == ("PENDING", None)
            return
        wait_until(lambda: result.state == "FAILURE", "the end of a task that will never run again")
        with pytest.raises(Reject, match="not for me"):
            result.get(timeout=WAIT)

    def test_task_that_raises_ignore_is_not_stored(self, harness: Harness) -> None:
        nothing, something = harness.tasks.ignore.delay(), harness.tasks.ignore.delay("LEFT")
        until_idle(harness)
        assert (nothing.state, stored(harness, nothing.id)) == ("PENDING", None)
        assert (something.state, something.info) == ("LEFT", {"left": "alone"})

    def test_ignore_result_of_a_call_stores_nothing(self, harness: Harness) -> None:
        result = harness.tasks.add.apply_async((1, 1), ignore_result=True)
        assert result.get(timeout=WAIT) is None
        until_idle(harness)
        assert stored(harness, result.id) is None

    def test_ignored_task_stores_its_error_if_configured(self, harness: Harness) -> None:
        result = harness.tasks.ignored_but_for_errors.delay()
        with pytest.raises(Own, match="kept"):
            harness.app.AsyncResult(result.id).get(timeout=WAIT)

    def test_expected_error_is_stored_as_failure(self, harness: Harness) -> None:
        with pytest.raises(Own, match="expected"):
            harness.tasks.fail_as_expected.delay().get(timeout=WAIT)
