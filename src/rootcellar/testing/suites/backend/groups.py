"""Groups, also saved ones, and sets of results."""

from __future__ import annotations

from typing import Any

import pytest
from celery import chain, group
from celery.exceptions import (
    ImproperlyConfigured,
    TimeoutError,
)
from celery.result import GroupResult, ResultSet

from rootcellar.testing.celery_versions import (
    SHORT_TIMEOUTS,
    exists,
)
from rootcellar.testing.conformance_app import Own
from rootcellar.testing.gate import Gate
from rootcellar.testing.harness import Harness
from rootcellar.testing.helpers import new_id
from rootcellar.testing.suites.backend.looking import WAIT, Timer


class TestGroups:
    def test_group_result_has_its_methods(self, harness: Harness) -> None:
        result = group(harness.tasks.add.s(n, n) for n in range(5))()
        assert result.get(timeout=WAIT) == result.join(timeout=WAIT) == result.join_native(timeout=WAIT)
        assert (result.ready(), result.successful(), result.failed(), result.waiting()) == (True, True, False, False)
        assert (result.completed_count(), len(result)) == (5, 5)
        assert [one.id for one in result] == [one.id for one in result.children] == [one.id for one in result.results]
        assert result[1].get(timeout=WAIT) == 2
        assert result.supports_native_join

    def test_running_group_times_out_and_is_not_ready(self, harness: Harness, gate: Gate) -> None:
        result = group([harness.tasks.hold.s(gate.port, "held"), harness.tasks.add.s(1, 1)])()
        gate.await_arrival()
        assert result[1].get(timeout=WAIT) == 2
        assert (result.ready(), result.successful(), result.failed(), result.waiting()) == (False, False, False, True)
        assert result.completed_count() == 1
        for join in (result.join, result.join_native, result.get):
            for timeout in SHORT_TIMEOUTS:
                with Timer() as timer, pytest.raises(TimeoutError):
                    join(timeout=timeout)
                assert timeout <= timer.seconds < timeout + WAIT
        gate.let_through()
        assert result.get(timeout=WAIT) == ["held", 2]

    def test_iter_native_yields_results_as_they_end(self, harness: Harness) -> None:
        with Gate() as first, Gate() as second:
            result = group([harness.tasks.hold.s(gate.port, n) for n, gate in enumerate((first, second))])()
            first.await_arrival()
            second.await_arrival()
            second.let_through()
            coming = result.iter_native(timeout=WAIT)
            task_id, meta = next(coming)
            assert (task_id, meta["status"], meta["result"]) == (result[1].id, "SUCCESS", 1)
            first.let_through()
            assert [task_id for task_id, _ in coming] == [result[0].id]

    def test_group_raises_the_failure_of_a_member(self, harness: Harness) -> None:
        result = group([harness.tasks.add.s(1, 1), harness.tasks.raise_.s("own"), harness.tasks.add.s(2, 2)])()
        for join in (result.get, result.join, result.join_native):
            with pytest.raises(Own):
                join(timeout=WAIT)
            one, failure, two = join(timeout=WAIT, propagate=False)
            assert (one, two) == (2, 4)
            assert isinstance(failure, Own)
        assert (result.ready(), result.successful(), result.failed()) == (True, False, True)
        assert result.completed_count() == 2
        with pytest.raises(Own):
            result.maybe_throw()

    def test_group_raises_a_failure_before_others_end(self, harness: Harness, gate: Gate) -> None:
        result = group([harness.tasks.hold.s(gate.port), harness.tasks.raise_.s("own")])()
        gate.await_arrival()
        with pytest.raises(Own):
            result.join_native(timeout=WAIT)
        assert not result.ready()
        gate.let_through()
        result[0].get(timeout=WAIT)

    def test_saved_group_is_restored_and_deleted(self, harness: Harness) -> None:
        result = group(harness.tasks.add.s(n, n) for n in range(3))()
        assert GroupResult.restore(result.id, app=harness.app) is None
        result.save()
        client = harness.client()
        restored = GroupResult.restore(result.id, app=client.app)
        assert restored == result
        assert restored.get(timeout=WAIT) == [0, 2, 4]
        result.save()
        assert harness.app.GroupResult.restore(result.id).get(timeout=WAIT) == [0, 2, 4]
        result.delete()
        client.backend.reload_group_result(result.id)
        assert GroupResult.restore(result.id, app=harness.client().app) is None
        assert result.get(timeout=WAIT) == [0, 2, 4], "the tasks' results are still there"

    def test_saved_group_is_restored_with_its_parent(self, harness: Harness) -> None:
        result = chain(harness.tasks.add.s(1, 1), group(harness.tasks.add.s(n) for n in range(3)))()
        assert result.get(timeout=WAIT) == [2, 3, 4]
        result.save()
        restored = GroupResult.restore(result.id, app=harness.client().app)
        assert restored.parent.id == result.parent.id
        assert restored.parent.get(timeout=WAIT) == 2

    def test_forgotten_group_has_no_results(self, harness: Harness) -> None:
        result = group(harness.tasks.add.s(n, n) for n in range(3))()
        result.get(timeout=WAIT)
        result.forget()
        assert [exists(one) for one in result] == [False] * 3

    def test_callback_gets_each_result_of_a_group(self, harness: Harness) -> None:
        result = group(harness.tasks.add.s(n, n) for n in range(3))()
        for join in (result.join, result.join_native):
            called: list[tuple[str, Any]] = []
            assert not join(timeout=WAIT, callback=lambda *args, called=called: called.append(args))
            assert sorted(called) == sorted((one.id, 2 * n) for n, one in enumerate(result))

    def test_on_message_gets_each_result_of_a_group(self, harness: Harness) -> None:
        result = group(harness.tasks.add.s(n, n) for n in range(3))()
        seen: dict[str, Any] = {}
        result.get(timeout=WAIT, on_message=lambda meta: seen.update({meta["task_id"]: meta["result"]}))
        assert seen == {one.id: 2 * n for n, one in enumerate(result)}
        with pytest.raises(ImproperlyConfigured):
            result.join(on_message=seen.update)

    def test_empty_group_is_ready(self, harness: Harness) -> None:
        empty = GroupResult(new_id(), [], app=harness.app)
        assert empty.get(timeout=0) == []
        assert list(empty.join_native(timeout=0)) == []
        assert list(empty.iter_native(timeout=0)) == []
        assert (empty.ready(), empty.successful(), empty.completed_count()) == (True, True, 0)
        assert group([], app=harness.app)().get(timeout=0) == []

    def test_group_of_groups_joins_nested_results(self, harness: Harness) -> None:
        inner = [group(harness.tasks.add.s(n, m) for m in range(2)).freeze() for n in range(2)]
        for one in inner:
            for leaf, total in zip(one, (inner.index(one), inner.index(one) + 1), strict=True):
                harness.tasks.add.apply_async((total, 0), task_id=leaf.id)
        single = harness.tasks.add.delay(7, 0)
        outer = GroupResult(new_id(), [inner[0], single, inner[1]], app=harness.app)
        assert outer.join_native(timeout=WAIT) == [[0, 1], 7, [1, 2]]
        assert outer.get(timeout=WAIT) == [[0, 1], 7, [1, 2]]
        assert outer.join(timeout=WAIT) == [[0, 1], 7, [1, 2]]
        assert (outer.ready(), outer.completed_count()) == (True, 3)
        outer.save()
        restored = GroupResult.restore(outer.id, app=harness.client().app)
        assert restored.get(timeout=WAIT) == [[0, 1], 7, [1, 2]]

    def test_nested_group_signatures_are_joined(self, harness: Harness) -> None:
        add = harness.tasks.add
        result = group(add.s(1, 1), group(add.s(2, 2), group(add.s(3, 3))))()
        assert result.get(timeout=WAIT) == [2, 4, 6]

    def test_result_set_has_its_methods(self, harness: Harness) -> None:
        one, two, three = (harness.tasks.add.delay(n, n) for n in range(3))
        results = ResultSet([one], app=harness.app)
        results.add(two)
        results.add(two)
        results.update([two, three])
        assert results.get(timeout=WAIT) == [0, 2, 4]
        assert (len(results), results.completed_count()) == (3, 3)
        results.remove(one)
        results.discard(one.id)
        with pytest.raises(KeyError):
            results.remove(one)
        assert results.join(timeout=WAIT) == [2, 4]
        assert [meta["result"] for meta in sorted(results._iter_meta(), key=lambda meta: meta["result"])] == [2, 4]
        results.clear()
        assert results.get(timeout=0) == []

    def test_result_set_joins_the_same_result_twice(self, harness: Harness) -> None:
        result = harness.tasks.add.delay(1, 1)
        twice = ResultSet([result, harness.app.AsyncResult(result.id)], app=harness.app)
        assert twice.join(timeout=WAIT) == [2, 2]

    def test_get_many_reads_only_ended_tasks(self, harness: Harness) -> None:
        ready, unready = harness.tasks.add.delay(1, 1), harness.app.AsyncResult(new_id())
        ready.get(timeout=WAIT)
        found = dict(harness.backend.get_many([ready.id, unready.id], max_iterations=1))
        assert {task_id: meta["result"] for task_id, meta in found.items()} == {ready.id: 2}
        assert dict(harness.backend.get_many([ready.id], timeout=WAIT))[ready.id]["status"] == "SUCCESS"
        assert dict(harness.backend.get_many([])) == {}
