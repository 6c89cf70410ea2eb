"""Chains, links and errbacks."""

from __future__ import annotations

import pytest
from celery import chain, group

from rootcellar.testing.conformance_app import Own
from rootcellar.testing.harness import Harness
from rootcellar.testing.helpers import new_id, wait_until
from rootcellar.testing.suites.backend.looking import WAIT, stored, until_idle


class TestChains:
    def test_chain_that_fails_in_the_middle_ends_as_failure(self, harness: Harness) -> None:
        tasks = harness.tasks
        result = chain(tasks.add.s(1, 1), tasks.raise_.si("own"), tasks.add.s(1), tasks.add.s(2))()
        with pytest.raises(Own):
            result.get(timeout=WAIT)
        last, third, second, first = result, result.parent, result.parent.parent, result.parent.parent.parent
        assert first.get(timeout=WAIT) == 2
        wait_until(lambda: all(one.state == "FAILURE" for one in (second, third, last)), "FAILURE of all that follow")
        for one in (second, third, last):
            assert isinstance(one.result, Own)
        with pytest.raises(Own):
            harness.client().app.AsyncResult(last.id).get(timeout=WAIT)

    def test_chain_stores_names_and_relations(self, harness: Harness) -> None:
        result = chain(harness.tasks.add.s(1, 1), harness.tasks.echo.s())()
        assert result.get(timeout=WAIT) == 2
        # a task sends the next one before its own result is stored
        assert result.parent.get(timeout=WAIT) == 2
        assert (result.name, result.parent.name) == ("conformance.echo", "conformance.add")
        meta = harness.backend.get_task_meta(result.id)
        assert (meta["parent_id"], meta["root_id"]) == (result.parent.id, result.parent.id)
        assert [child.id for child in harness.app.AsyncResult(result.parent.id).children] == [result.id]

    def test_chain_runs_immutable_signatures(self, harness: Harness) -> None:
        result = chain(harness.tasks.add.s(1, 1), harness.tasks.add.si(5, 5), harness.tasks.echo.s())()
        assert result.get(timeout=WAIT) == 10

    def test_linked_task_gets_the_result(self, harness: Harness) -> None:
        linked = new_id()
        result = harness.tasks.add.apply_async((1, 1), link=harness.tasks.add.s(40).set(task_id=linked))
        assert result.get(timeout=WAIT) == 2
        assert harness.app.AsyncResult(linked).get(timeout=WAIT) == 42
        assert [child.id for child in result.children] == [linked]

    def test_several_linked_tasks_get_the_result(self, harness: Harness) -> None:
        ids = [new_id(), new_id()]
        links = [harness.tasks.add.s(n).set(task_id=task_id) for n, task_id in enumerate(ids)]
        harness.tasks.add.apply_async((1, 1), link=links)
        assert [harness.app.AsyncResult(task_id).get(timeout=WAIT) for task_id in ids] == [2, 3]

    def test_errback_is_called_and_link_is_not(self, harness: Harness) -> None:
        linked, in_time = new_id(), new_id()
        result = harness.tasks.raise_.apply_async(
            ("own",), link=harness.tasks.echo.s().set(task_id=linked), link_error=harness.tasks.errback.s()
        )
        with pytest.raises(Own):
            result.get(timeout=WAIT)
        task_id, shown = harness.app.AsyncResult(f"errback of {result.id}").get(timeout=WAIT)
        assert task_id == result.id
        assert shown.startswith("Own('text', 2")
        assert harness.tasks.add.apply_async((1, 1), task_id=in_time).get(timeout=WAIT) == 2
        until_idle(harness)
        assert stored(harness, linked) is None, "the link of a task that failed is not called"

    def test_errback_that_takes_an_id_runs_as_a_task(self, harness: Harness) -> None:
        task_id = new_id()
        result = harness.tasks.raise_.apply_async(
            ("own",), link_error=harness.tasks.old_errback.s().set(task_id=task_id)
        )
        assert harness.app.AsyncResult(task_id).get(timeout=WAIT) == f"{result.id} failed"

    def test_errback_of_a_chain_gets_the_failed_task(self, harness: Harness) -> None:
        work = chain(harness.tasks.add.s(1, 1), harness.tasks.raise_.si("own"), harness.tasks.add.s(1))
        result = work.apply_async(link_error=harness.tasks.errback.s())
        with pytest.raises(Own):
            result.get(timeout=WAIT)
        task_id, _ = harness.app.AsyncResult(f"errback of {result.parent.id}").get(timeout=WAIT)
        assert task_id == result.parent.id

    def test_chain_passes_results_of_a_group_to_a_task(self, harness: Harness) -> None:
        work = chain(
            harness.tasks.add.s(1, 1), group(harness.tasks.add.s(n) for n in range(3)), harness.tasks.total.s()
        )
        assert work().get(timeout=WAIT) == 2 + 3 + 4

    def test_chain_passes_results_of_a_group_to_a_group(self, harness: Harness) -> None:
        echo = harness.tasks.echo
        work = chain(group(harness.tasks.add.s(n, 0) for n in range(3)), group(echo.s(), echo.s()))
        assert work().get(timeout=WAIT) == [[0, 1, 2], [0, 1, 2]]
