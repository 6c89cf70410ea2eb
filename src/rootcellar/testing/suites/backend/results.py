"""`AsyncResult`: its fields, its tree, `forget`, `then`, revoking."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timezone
from typing import Any

import pytest
from celery import chain, group
from celery.exceptions import (
    IncompleteStream,
    TaskRevokedError,
    TimeLimitExceeded,
    TimeoutError,
)
from celery.result import AsyncResult, EagerResult, GroupResult, ResultSet, result_from_tuple

from rootcellar.testing.celery_versions import (
    exists,
    needs_revoke_at_once,
    or_revoked,
)
from rootcellar.testing.conformance_app import Own
from rootcellar.testing.gate import Gate
from rootcellar.testing.harness import Harness
from rootcellar.testing.helpers import new_id, wait_until
from rootcellar.testing.suites.backend.looking import WAIT, stored, until_idle


class TestResults:
    def test_result_is_restored_from_its_tuple(self, harness: Harness) -> None:
        result = chain(harness.tasks.add.s(1, 1), harness.tasks.add.s(10))()
        assert result.get(timeout=WAIT) == 12
        values = json.loads(json.dumps(result.as_tuple()))
        back = result_from_tuple(values, app=harness.app)
        assert (back.get(timeout=WAIT), back.parent.get(timeout=WAIT)) == (12, 2)
        assert result.as_list() == [result.id, result.parent.id]

    def test_result_lists_the_tree_of_a_task(self, harness: Harness) -> None:
        result = harness.tasks.parent.delay(2)

        def leaves(node: AsyncResult) -> list[AsyncResult]:
            node.get(timeout=WAIT)
            return [leaf for child in node.children for leaf in leaves(child)] or [node]

        assert len(leaves(result)) == 4
        fresh = harness.app.AsyncResult(result.id)
        deps = list(fresh.iterdeps())
        assert len(deps) == 7
        assert [parent and parent.id for parent, _ in deps[:3]] == [None, result.id, result.id]
        assert [value for node, value in fresh.collect(timeout=WAIT) if not node.children] == ["leaf"] * 4
        assert fresh.get_leaf() == "leaf"
        graph = fresh.build_graph()
        assert sum(len(graph[node]) for node in graph) == 6
        assert {str(node) for node in graph} == {node.id for _, node in deps}

    def test_tree_of_a_running_task_is_incomplete(self, harness: Harness, gate: Gate) -> None:
        result = harness.tasks.hold.delay(gate.port, 1)
        gate.await_arrival()
        with pytest.raises(IncompleteStream):
            list(result.iterdeps())
        assert [node.id for _, node in result.iterdeps(intermediate=True)] == [result.id]
        with pytest.raises(IncompleteStream):
            result.build_graph()
        gate.let_through()
        assert result.get(timeout=WAIT) == 1

    def test_result_has_a_group_as_child(self, harness: Harness) -> None:
        result = harness.tasks.parent_of_group.delay()
        result.get(timeout=WAIT)
        (child,) = harness.app.AsyncResult(result.id).children
        assert isinstance(child, GroupResult)
        assert child.get(timeout=WAIT) == [0, 2, 4]
        assert [value for _, value in result.collect()][1] == [0, 2, 4]

    def test_result_exists_when_something_is_stored(self, harness: Harness, gate: Gate) -> None:
        result = harness.tasks.hold_started.delay(gate.port)
        gate.await_arrival()
        assert exists(result)
        assert harness.backend.task_result_exists(result.id)
        assert not harness.backend.task_result_exists(new_id())
        gate.let_through()
        result.get(timeout=WAIT)
        assert exists(result)

    def test_forget_removes_the_parents_too(self, harness: Harness) -> None:
        result = chain(harness.tasks.add.s(1, 1), harness.tasks.add.s(10))()
        assert result.get(timeout=WAIT) == 12
        parent = result.parent
        assert parent.get(timeout=WAIT) == 2  # the parent's result is stored only after the next task was sent
        result.forget()
        assert not exists(result)
        assert not exists(parent)
        with pytest.raises(TimeoutError):
            result.get(timeout=0)

    def test_forgotten_task_can_run_again(self, harness: Harness) -> None:
        task_id = new_id()
        assert harness.tasks.add.apply_async((1, 1), task_id=task_id).get(timeout=WAIT) == 2
        harness.app.AsyncResult(task_id).forget()
        assert harness.tasks.add.apply_async((2, 2), task_id=task_id).get(timeout=WAIT) == 4

    def test_success_is_not_overwritten(self, harness: Harness) -> None:
        task_id = new_id()
        assert harness.tasks.add.apply_async((1, 1), task_id=task_id).get(timeout=WAIT) == 2
        harness.tasks.add.apply_async((2, 2), task_id=task_id)
        harness.tasks.fail.apply_async(task_id=task_id)
        until_idle(harness)
        fresh = harness.client().app.AsyncResult(task_id)
        assert (fresh.state, fresh.get(timeout=WAIT)) == ("SUCCESS", 2)
        harness.backend.store_result(task_id, {}, "STARTED")
        harness.backend.mark_as_failure(task_id, ValueError("late"))
        harness.backend.mark_as_revoked(task_id)
        assert harness.client().app.AsyncResult(task_id).get(timeout=WAIT) == 2

    def test_then_calls_back_with_the_result(self, harness: Harness) -> None:
        result = harness.tasks.add.delay(2, 3)
        called: list[str] = []
        result.then(lambda ready: called.append(f"{ready.id} {ready.result}"))
        assert called == []
        result.get(timeout=WAIT)
        assert called == [f"{result.id} 5"]
        result.then(lambda ready: called.append("at once"))
        assert called[1:] == ["at once"]

    def test_then_calls_back_after_a_failure(self, harness: Harness) -> None:
        result = harness.tasks.raise_.delay("own")
        called: list[str] = []
        result.then(lambda ready: called.append(ready.state))
        result.get(timeout=WAIT, propagate=False)
        assert called == ["FAILURE"]

    def test_then_calls_back_for_a_group(self, harness: Harness) -> None:
        result = group(harness.tasks.add.s(n, n) for n in range(3))()
        called: list[Any] = []
        result.then(lambda ready: called.append(ready.id))
        result.get(timeout=WAIT)
        assert called == [result.id]

    def test_callback_of_get_gets_the_result(self, harness: Harness) -> None:
        called: list[Any] = []
        result = harness.tasks.add.delay(2, 3)
        assert result.get(timeout=WAIT, callback=lambda *args: called.append(args)) == 5
        assert called == [(result.id, 5)]

    def test_get_calls_on_interval(self, harness: Harness, gate: Gate) -> None:
        held = harness.tasks.hold.delay(gate.port, 1)
        gate.await_arrival()
        calls: list[None] = []

        def note_call() -> None:
            calls.append(None)
            if len(calls) == 3:
                gate.let_through()

        # a set, because Celery itself calls back only once for a single result
        assert ResultSet([held]).get(timeout=WAIT, interval=0.05, on_interval=note_call) == [1]
        assert len(calls) >= 3
        single = harness.tasks.hold.delay(gate.port, 2)
        gate.await_arrival()
        assert single.get(timeout=WAIT, interval=0.05, on_interval=gate.let_through) == 2

    def test_get_raises_the_error_of_on_interval(self, harness: Harness) -> None:
        def give_up() -> None:
            raise Own("enough")

        with pytest.raises(Own, match="enough"):
            harness.app.AsyncResult(new_id()).get(timeout=WAIT, interval=0.01, on_interval=give_up)

    def test_get_is_refused_within_a_task(self, harness: Harness) -> None:
        if harness.under_test.pool == "inside":
            pytest.skip("the pool inside lets tasks wait: Celery keeps the refusal for the whole process")
        with pytest.raises(RuntimeError, match=r"Never call result.get\(\) within a task"):
            harness.tasks.blocks.delay().get(timeout=WAIT)

    def test_get_within_a_task_works_if_allowed(self, harness: Harness) -> None:
        assert harness.tasks.waits_for_child.delay(4).get(timeout=WAIT) == 5

    def test_known_result_is_not_read_again(self, harness: Harness) -> None:
        result = harness.tasks.add.delay(2, 3)
        assert result.get(timeout=WAIT) == 5
        harness.backend.store.delete([result.id])
        assert result.get(timeout=0) == 5
        assert (result.state, result.ready()) == ("SUCCESS", True)

    def test_cache_keeps_as_many_successes_as_configured(self, harness: Harness) -> None:
        for size, is_kept in ((100, True), (1, False), (-1, False)):
            client = harness.client(result_cache_max=size)
            first, second = client.tasks.add.delay(1, 1), client.tasks.add.delay(2, 2)
            assert (first.get(timeout=WAIT), second.get(timeout=WAIT)) == (2, 4)
            for result in (first, second):
                assert client.app.AsyncResult(result.id).state == "SUCCESS"
            client.backend.store.delete([first.id, second.id])
            state = client.app.AsyncResult(first.id).state
            assert state == ("SUCCESS" if is_kept else "PENDING"), f"with result_cache_max {size}"
            client.backend.store.close()

    def test_cache_follows_changes_of_its_own_process(self, harness: Harness) -> None:
        task_id = new_id()
        harness.backend.store_result(task_id, 1, "SUCCESS")
        assert harness.backend.get_task_meta(task_id)["result"] == 1
        harness.backend.forget(task_id)
        harness.backend.store_result(task_id, 2, "SUCCESS")
        assert harness.backend.get_task_meta(task_id)["result"] == 2
        harness.backend.store.delete([task_id])
        harness.backend.reload_task_result(task_id)
        assert harness.backend.get_task_meta(task_id)["status"] == "PENDING"

    def test_backend_methods_return_the_fields(self, harness: Harness) -> None:
        result = harness.tasks.raise_.delay("builtin")
        result.get(timeout=WAIT, propagate=False)
        backend = harness.backend
        assert backend.get_state(result.id) == backend.get_status(result.id) == "FAILURE"
        assert isinstance(backend.get_result(result.id), ValueError)
        assert "ValueError" in backend.get_traceback(result.id)
        assert backend.get_children(result.id) == []
        assert backend.wait_for(result.id, timeout=WAIT)["status"] == "FAILURE"

    def test_result_has_its_times_and_relations(self, harness: Harness) -> None:
        before = datetime.now(timezone.utc)
        results = group(harness.tasks.add.s(n, n) for n in range(3))()
        results.get(timeout=WAIT)
        child = harness.tasks.parent.delay(1)
        child.get(timeout=WAIT)
        grandchild = child.children[0]
        grandchild.get(timeout=WAIT)
        after = datetime.now(timezone.utc)
        for index, result in enumerate(results):
            meta = harness.backend.get_task_meta(result.id)
            assert before <= meta["date_sent"] <= meta["date_started"] <= meta["date_done"] <= after
            assert (meta["group_id"], meta["root_id"], meta["parent_id"]) == (results.id, result.id, None)
            record = stored(harness, result.id)
            assert record is not None
            assert record.group_index == index
        meta = harness.backend.get_task_meta(grandchild.id)
        assert (meta["parent_id"], meta["root_id"]) == (child.id, child.id)

    def test_arguments_are_not_stored_by_default(self, harness: Harness) -> None:
        result = harness.tasks.add.delay(2, y=3)
        assert result.get(timeout=WAIT) == 5
        assert (result.args, result.kwargs, result.name) == (None, None, "conformance.add")

    def test_task_from_a_client_without_rootcellar_is_stored(self, harness: Harness) -> None:
        if harness.under_test.broker.in_process:
            pytest.skip("the broker is in this process, which has imported rootcellar")
        program = (
            "import sys; from celery import Celery; app = Celery(broker=sys.argv[1]);"
            "print(app.send_task('conformance.add', (2, 3), queue=sys.argv[2]).id);"
            # kombu loads the serializer's entry point whenever rootcellar is installed
            "assert {n for n in sys.modules if 'rootcellar' in n} <= {'rootcellar', 'rootcellar.serializer'}"
        )
        conf = harness.app.conf
        command = [sys.executable, "-c", program, conf.broker_url, conf.task_default_queue]
        sent = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=True).stdout.strip()
        result = harness.app.AsyncResult(sent)
        assert result.get(timeout=WAIT) == 5
        meta = harness.backend.get_task_meta(sent)
        assert meta["date_sent"] is None
        assert meta["date_started"] <= meta["date_done"]
        assert meta["name"] == "conformance.add"

    def test_eager_result_is_not_stored(self, harness: Harness) -> None:
        result = harness.tasks.add.apply((2, 3))
        assert isinstance(result, EagerResult)
        assert (result.get(), result.state, result.ready(), result.successful()) == (5, "SUCCESS", True, True)
        assert stored(harness, result.id) is None
        failed = harness.tasks.raise_.apply(("own",))
        assert (failed.state, failed.failed()) == ("FAILURE", True)
        with pytest.raises(Own):
            failed.get()

    @pytest.mark.parametrize("is_kept", [True, False])
    def test_eager_task_is_stored_if_configured(self, harness: Harness, is_kept: bool) -> None:
        eager = harness.client(task_always_eager=True, task_store_eager_result=is_kept)
        ok, failed = eager.tasks.add.delay(2, 3), eager.tasks.raise_.delay("own")
        assert (ok.get(), failed.state) == (5, "FAILURE")
        if not is_kept:
            assert (stored(harness, ok.id), stored(harness, failed.id)) == (None, None)
            with pytest.warns(RuntimeWarning, match="task_always_eager"):
                assert eager.app.backend.get_task_meta(ok.id)["status"] == "PENDING"
            with pytest.warns(RuntimeWarning, match="task_always_eager"):
                assert eager.app.backend.get_group_meta(ok.id) is None
            return
        assert harness.app.AsyncResult(ok.id).get(timeout=0) == 5
        with pytest.raises(Own):
            harness.app.AsyncResult(failed.id).get(timeout=0)

    @needs_revoke_at_once
    def test_task_revoked_before_its_start_is_revoked(self, harness: Harness) -> None:
        result = harness.tasks.add.apply_async((1, 1), countdown=86_400)
        result.revoke()
        with pytest.raises(TaskRevokedError):
            result.get(timeout=WAIT)
        assert (result.state, result.ready(), result.successful(), result.failed()) == ("REVOKED", True, False, False)

    @needs_revoke_at_once
    def test_revoked_group_has_revoked_tasks(self, harness: Harness) -> None:
        result = group(harness.tasks.add.s(n, n).set(countdown=86_400) for n in range(3))()
        result.revoke()
        with pytest.raises(TaskRevokedError):
            result.get(timeout=WAIT)
        wait_until(lambda: [one.state for one in result] == ["REVOKED"] * 3, "the state REVOKED of all")
        assert result.completed_count() == 0

    def test_terminated_task_is_revoked(self, harness: Harness, gate: Gate) -> None:
        if harness.under_test.pool != "prefork":
            pytest.skip(f"the pool {harness.under_test.pool} terminates no tasks")
        result = harness.tasks.hold.delay(gate.port)
        gate.await_arrival()
        result.revoke(terminate=True, signal="SIGKILL")
        with pytest.raises(TaskRevokedError, match=or_revoked("terminated")):
            result.get(timeout=WAIT)
        assert harness.tasks.add.delay(1, 1).get(timeout=WAIT) == 2

    def test_expired_task_is_revoked(self, harness: Harness) -> None:
        result = harness.tasks.add.apply_async((1, 1), expires=-1)
        with pytest.raises(TaskRevokedError, match="expired"):
            result.get(timeout=WAIT)

    def test_task_fails_at_its_time_limit(self, harness: Harness, gate: Gate) -> None:
        if harness.under_test.pool != "prefork":
            pytest.skip(f"the pool {harness.under_test.pool} has no time limits")
        result = harness.tasks.hold.apply_async((gate.port,), time_limit=1)
        with pytest.raises(TimeLimitExceeded):
            result.get(timeout=WAIT)
        meta = harness.backend.get_task_meta(result.id)
        assert (meta["status"], meta["name"]) == ("FAILURE", "conformance.hold")
