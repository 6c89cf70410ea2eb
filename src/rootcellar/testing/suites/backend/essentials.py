"""What must work with every pool of every worker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import chain, chord, group
from celery.exceptions import (
    ChordError,
    TimeoutError,
)
from celery.result import ResultSet

from rootcellar.testing.celery_versions import (
    exists,
    needs_order_of_replacements,
)
from rootcellar.testing.conformance_app import Own, OwnBase, large
from rootcellar.testing.gate import Gate
from rootcellar.testing.harness import Harness
from rootcellar.testing.helpers import in_threads, new_id
from rootcellar.testing.suites.backend.looking import WAIT, Timer, alone, stored, until_idle


class TestEssentials:
    for_every_worker = True

    def test_result_has_its_value_and_metadata(self, harness: Harness) -> None:
        result = harness.tasks.add.delay(2, 3)
        assert result.get(timeout=WAIT) == 5
        again = harness.app.AsyncResult(result.id)
        for one in (result, again):
            assert (one.state, one.status, one.result, one.info) == ("SUCCESS", "SUCCESS", 5, 5)
            assert (one.ready(), one.successful(), one.failed()) == (True, True, False)
            assert (one.traceback, one.children, one.name) == (None, [], "conformance.add")
            assert (one.retries, one.queue) == (0, harness.app.conf.task_default_queue)
            assert one.worker
            assert exists(one)
            assert abs(one.date_done - datetime.now(timezone.utc)) < timedelta(minutes=1)

    def test_failure_raises_the_tasks_exception(self, harness: Harness) -> None:
        result = harness.tasks.raise_.delay("own")
        with pytest.raises(Own) as caught:
            result.get(timeout=WAIT)
        assert caught.value.args == ("text", 2, {"key": [None, 1.5]})
        assert (result.state, result.failed(), result.ready(), result.successful()) == ("FAILURE", True, True, False)
        assert result.traceback.startswith("Traceback (most recent call last)")
        assert "in raise_" in result.traceback
        for found in (result.get(propagate=False), result.result, result.info):
            assert type(found) is Own
            assert found.args == caught.value.args
        with pytest.raises(Own):
            harness.app.AsyncResult(result.id).get(timeout=WAIT)

    def test_unknown_task_is_pending(self, harness: Harness) -> None:
        result = harness.app.AsyncResult(new_id())
        assert (result.state, result.result, result.ready(), exists(result)) == ("PENDING", None, False, False)
        assert (result.date_done, result.name, result.traceback) == (None, None, None)

    def test_get_of_an_unknown_task_times_out(self, harness: Harness) -> None:
        result = harness.app.AsyncResult(new_id())
        for timeout in (0, 0.3):
            with Timer() as timer, pytest.raises(TimeoutError):
                result.get(timeout=timeout)
            assert timeout <= timer.seconds < timeout + WAIT

    def test_on_message_gets_every_state(self, harness: Harness, gate: Gate) -> None:
        result = harness.tasks.progress.delay(gate.port, 3)
        seen: list[tuple[str, Any]] = []
        news = threading.Semaphore(0)

        def note(meta: dict[str, Any]) -> None:
            seen.append((meta["status"], meta["result"]))
            news.release()

        def let_through_when_seen() -> None:
            for _ in range(3):
                gate.await_arrival()
                assert news.acquire(timeout=WAIT)
                gate.let_through()

        lets = threading.Thread(target=let_through_when_seen)
        lets.start()
        assert result.get(timeout=WAIT, on_message=note) == "done"
        lets.join(WAIT)
        assert seen == [*(("PROGRESS", {"done": n, "of": 3}) for n in range(3)), ("SUCCESS", "done")]

    def test_retried_task_ends_with_its_last_result(self, harness: Harness) -> None:
        result = harness.tasks.retry_until.delay(3)
        assert result.get(timeout=WAIT) == 3
        assert result.retries == 3

    @pytest.mark.parametrize("task", ["retry_until", "retry_by_itself"])
    def test_retried_task_is_not_its_own_relation(self, harness: Harness, task: str) -> None:
        result = getattr(harness.tasks, task).delay(*((2,) if task == "retry_until" else ()))
        assert result.get(timeout=WAIT) == 2
        found = harness.app.AsyncResult(result.id)
        assert found.children == []
        assert [(node.id, value) for node, value in found.collect(timeout=WAIT)] == [(result.id, 2)]
        assert found.get_leaf() == 2
        record = stored(harness, result.id)
        assert record is not None
        assert (record.parent_id, record.root_id) == (None, result.id)

    def test_task_has_its_children(self, harness: Harness) -> None:
        result = harness.tasks.parent.delay(1)
        result.get(timeout=WAIT)
        assert [child.get(timeout=WAIT) for child in result.children] == ["leaf", "leaf"]

    def test_group_returns_results_in_order(self, harness: Harness) -> None:
        result = group(harness.tasks.add.s(n, n) for n in range(20))()
        assert result.get(timeout=WAIT) == [2 * n for n in range(20)]
        assert result.successful()
        assert result.completed_count() == 20

    def test_chain_returns_the_last_result(self, harness: Harness) -> None:
        result = chain(harness.tasks.add.s(1, 1), harness.tasks.add.s(10), harness.tasks.add.s(100))()
        assert result.get(timeout=WAIT) == 112
        assert (result.parent.get(timeout=WAIT), result.parent.parent.get(timeout=WAIT)) == (12, 2)

    def test_chord_calls_its_body_with_all_results(self, harness: Harness) -> None:
        result = chord((harness.tasks.add.s(n, n) for n in range(20)), harness.tasks.total.s())()
        assert result.get(timeout=WAIT) == sum(2 * n for n in range(20))

    def test_chord_ends_however_a_member_ends(self, harness: Harness) -> None:
        tasks = harness.tasks
        values = {
            "its result is ignored": (tasks.ignored.s(), "for nobody"),
            "it has stored a result and raises Ignore": (tasks.ignore.s("SUCCESS"), {"left": "alone"}),
            "it is replaced": (tasks.replace_by_task.s(1), 11),
            "it is replaced by a chord": (tasks.replace_by_chord.s(1), 6),
            "it is retried": (tasks.retry_until.s(1), 1),
            "it has stored SUCCESS and is retried": (tasks.report_and_retry.s("SUCCESS"), "returned"),
            "it has stored FAILURE and is retried": (tasks.report_and_retry.s("FAILURE"), "returned"),
        }
        errors = {
            "it fails": (tasks.fail.s(), "oops"),
            "it fails and its result is ignored": (tasks.fail.s().set(ignore_result=True), "oops"),
            "it raises Ignore": (tasks.ignore.s(), "Ignore"),
            "it has stored FAILURE and raises Ignore": (tasks.ignore.s("FAILURE"), "Dependency"),
            "it has stored REVOKED and raises Ignore": (tasks.ignore.s("REVOKED"), "Dependency"),
            "it has stored PROGRESS and raises Ignore": (tasks.ignore.s("PROGRESS"), "Ignore"),
            "it raises Ignore in a chain": (chain(tasks.ignore.s(), tasks.add.s(1), tasks.add.s(1)), "Ignore"),
            "it raises Ignore at the end of a chain": (chain(tasks.add.s(1, 1), tasks.ignore.si()), "Ignore"),
            "it is rejected": (tasks.reject.s(), "not for me"),
            "its task is not known to the worker": (harness.app.signature("conformance.unknown"), "never registered"),
            "its task is not known, in a chain": (
                chain(harness.app.signature("conformance.unknown"), tasks.add.s(1)),
                "never registered",
            ),
        }
        sent = {
            way: chord([member, tasks.add.s(1, 1)], tasks.echo.s())()
            for way, (member, _) in {**values, **errors}.items()
        }
        for way, (_, value) in values.items():
            assert alone(harness, sent[way]).get(timeout=WAIT) == [value, 2], way
        for way, (_, why) in errors.items():
            with pytest.raises(ChordError, match=why):
                alone(harness, sent[way]).get(timeout=WAIT)

    @pytest.mark.parametrize("state", ["SUCCESS", "FAILURE", "REVOKED"])
    def test_chord_counts_a_member_only_when_it_returns(self, harness: Harness, gate: Gate, state: str) -> None:
        result = chord([harness.tasks.add.s(1, 1), harness.tasks.report.s(gate.port, state)], harness.tasks.echo.s())()
        first, member = result.parent.results
        gate.await_arrival()
        assert first.get(timeout=WAIT) == 2
        assert harness.app.AsyncResult(member.id).state == state
        assert member.id not in {part.task_id for part in harness.backend.store.chord_parts(result.parent.id)}
        gate.let_through()
        assert alone(harness, result).get(timeout=WAIT) == [2, "returned"]

    def test_state_of_another_task_has_no_field_of_its_writer(self, harness: Harness, gate: Gate) -> None:
        other = new_id()
        header = [harness.tasks.add.s(1, 1), harness.tasks.report.s(gate.port, "SUCCESS", other)]
        result = chord(header, harness.tasks.echo.s())()
        gate.await_arrival()
        first, _ = result.parent.results
        assert first.get(timeout=WAIT) == 2
        parts = harness.backend.store.chord_parts(result.parent.id)
        assert {part.task_id for part in parts} <= {first.id}, "neither of the two tasks has ended"
        found = stored(harness, other)
        assert found is not None
        given = {name: value for name, value in asdict(found).items() if value not in (None, ())}
        assert given.keys() <= {"task_id", "state", "result", "done_at", "expires_at"}, "no field of its writer"
        gate.let_through()
        assert result.get(timeout=WAIT) == [2, "returned"]
        assert harness.app.AsyncResult(other).get(timeout=WAIT) == {"by": "hand"}

    def test_chord_needs_no_record_of_its_members(self, harness: Harness, gate: Gate) -> None:
        header = [harness.tasks.add.s(1, 1), harness.tasks.hold.s(gate.port, "last")]
        result = chord(header, harness.tasks.echo.s())()
        first, _ = result.parent.results
        gate.await_arrival()
        assert first.get(timeout=WAIT) == 2
        first.forget()
        harness.backend.cleanup()
        assert stored(harness, first.id) is None
        gate.let_through()
        assert alone(harness, result).get(timeout=WAIT) == [2, "last"]

    def test_chord_completes_chords_in_its_header(self, harness: Harness) -> None:
        inner = [chord([harness.tasks.add.s(n, m) for m in range(3)], harness.tasks.total.s()) for n in range(3)]
        assert chord(inner, harness.tasks.total.s())().get(timeout=WAIT) == sum(
            n + m for n in range(3) for m in range(3)
        )

    def test_chord_raises_the_error_of_its_header(self, harness: Harness) -> None:
        result = chord([harness.tasks.fail.s(message="header"), harness.tasks.add.s(1, 1)], harness.tasks.total.s())()
        with pytest.raises(ValueError, match="header"):
            result.get(timeout=WAIT)

    @pytest.mark.parametrize(
        ("name", "kind", "args"),
        [
            ("cancelled", asyncio.CancelledError, ("why",)),
            ("interrupted", KeyboardInterrupt, ("why",)),
            ("own base", OwnBase, ("why", 2)),
        ],
    )
    def test_task_that_raises_a_base_exception_fails(
        self, harness: Harness, name: str, kind: type[BaseException], args: tuple[Any, ...]
    ) -> None:
        if harness.under_test.pool == "solo":
            pytest.skip("a worker of the pool solo ends with its task, by Celery's own error")
        result = harness.tasks.raise_.delay(name)
        with pytest.raises(kind) as caught:
            result.get(timeout=WAIT)
        assert type(caught.value) is kind
        assert caught.value.args == args
        assert (result.state, result.name) == ("FAILURE", "conformance.raise_")
        assert harness.tasks.add.delay(1, 1).get(timeout=WAIT) == 2, "the worker goes on"

    def test_chord_fails_if_a_member_raises_a_base_exception(self, harness: Harness) -> None:
        if harness.under_test.pool == "solo":
            pytest.skip("a worker of the pool solo ends with its task, by Celery's own error")
        header = [harness.tasks.add.s(1, 1), harness.tasks.raise_.s("own base")]
        result = chord(header, harness.tasks.total.s().on_error(harness.tasks.errback.s()))()
        with pytest.raises(ChordError, match="OwnBase"):
            result.get(timeout=WAIT, follow_parents=False)
        with pytest.raises(OwnBase):
            result.get(timeout=WAIT)

    def test_chord_error_quotes_the_members_error(self, harness: Harness) -> None:
        header = [harness.tasks.add.s(1, 1), harness.tasks.raise_.s("own"), harness.tasks.add.s(2, 2)]
        result = chord(header, harness.tasks.total.s())()
        with pytest.raises(ChordError, match=r"raised Own\('text', 2"):
            alone(harness, result).get(timeout=WAIT)

    @needs_order_of_replacements
    def test_chord_completes_replaced_members(self, harness: Harness) -> None:
        header = [harness.tasks.replace_by_group.s(10), harness.tasks.add.s(1, 1), harness.tasks.replace_by_chain.s(20)]
        assert chord(header, harness.tasks.echo.s())().get(timeout=WAIT) == [[10, 11, 12], 2, 23]

    def test_forgotten_result_is_pending(self, harness: Harness) -> None:
        result = harness.tasks.add.delay(2, 3)
        result.get(timeout=WAIT)
        result.forget()
        assert (result.state, exists(result)) == ("PENDING", False)

    def test_ignored_result_is_not_stored(self, harness: Harness) -> None:
        result = harness.tasks.ignored.delay()
        assert result.get(timeout=WAIT) is None
        until_idle(harness)
        assert stored(harness, result.id) is None

    def test_result_set_returns_two_hundred_results(self, harness: Harness) -> None:
        results = [harness.tasks.add.delay(n, 0) for n in range(200)]
        assert ResultSet(results).get(timeout=WAIT) == list(range(200))

    def test_result_of_five_megabytes_comes_back(self, harness: Harness) -> None:
        assert harness.tasks.large_text.delay(5).get(timeout=WAIT) == large(5)

    def test_sixteen_threads_wait_for_their_own_results(self, harness: Harness) -> None:
        def request(number: int) -> Any:
            return [harness.tasks.add.delay(number, turn).get(timeout=WAIT) - number for turn in range(5)]

        assert in_threads(16, request) == [[0, 1, 2, 3, 4]] * 16

    def test_sixteen_threads_wait_for_the_same_result(self, harness: Harness, gate: Gate) -> None:
        result = harness.tasks.hold.delay(gate.port, "same")
        gate.await_arrival()
        waiting = threading.Semaphore(0)

        def wait(number: int) -> Any:
            waiting.release()
            return harness.app.AsyncResult(result.id).get(timeout=WAIT)

        def open_gate() -> None:
            for _ in range(16):
                assert waiting.acquire(timeout=WAIT)
            gate.let_through()

        opener = threading.Thread(target=open_gate)
        opener.start()
        assert in_threads(16, wait) == ["same"] * 16
        opener.join(WAIT)


def failing_chords(tasks: Any) -> dict[str, Callable[[], Any]]:
    """Return functions that send a chord whose header raises ``ValueError("header")``, by name."""
    fail, ok, echo, body = tasks.fail.s(message="header"), tasks.add.s(1, 1), tasks.echo.s(), tasks.total.s()
    return {
        "two tasks": lambda: chord((fail, ok), body)(),
        "the last of two": lambda: chord((ok, fail), body)(),
        "one task": lambda: chord((fail,), body)(),
        "a chain in the header": lambda: chord((chain(ok, fail), ok), body)(),
        "a group in the header": lambda: chord((group(fail, ok), ok), body)(),
        "a group and a task": lambda: (group(fail, ok) | body)(),
        "a chord as the body": lambda: chord((fail, ok), chord((echo, echo), body))(),
        "a chain as the body": lambda: chord((fail, ok), chain(echo, echo))(),
        "an errback": lambda: chord((fail, ok), body.on_error(tasks.errback.s()))(),
        "behind a task": lambda: chain(ok, chord((tasks.fail.s(message="header"), echo), body))(),
        "before a task": lambda: chain(chord((fail, ok), body), echo)(),
    }


CHORDS = (
    *("two tasks", "the last of two", "one task", "a chain in the header", "a group in the header"),
    *("a group and a task", "a chord as the body", "a chain as the body", "an errback", "behind a task"),
    "before a task",
)
