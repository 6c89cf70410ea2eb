"""Stamps."""

from __future__ import annotations

from typing import Any

from celery import chain, group
from celery.canvas import StampingVisitor

from rootcellar.testing.harness import Harness
from rootcellar.testing.suites.backend.looking import WAIT, stored


class Stamp(StampingVisitor):  # type: ignore[misc]
    """Stamps every signature alike."""

    def __init__(self, **stamps: Any) -> None:
        self._stamps = stamps

    def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
        return {**self._stamps, "stamped_headers": list(self._stamps)}


class TestStamps:
    def test_stamps_of_a_task_are_stored(self, harness: Harness) -> None:
        work = harness.tasks.add.s(1, 1)
        work.stamp(Stamp(customer="c-1", numbers=[1, 2]))
        result = work.apply_async()
        assert result.get(timeout=WAIT) == 2
        meta = harness.backend.get_task_meta(result.id)
        assert sorted(meta["stamped_headers"]) == ["customer", "numbers"]
        assert meta["customer"] in ("c-1", ["c-1"])
        assert sorted(meta["numbers"]) == [1, 2]

    def test_stamps_of_a_workflow_are_stored(self, harness: Harness) -> None:
        tasks = harness.tasks
        work = chain(tasks.add.s(1, 1), group(tasks.add.s(n) for n in range(2)), tasks.total.s())
        work.stamp(Stamp(order="o-7"))
        result = work.apply_async()
        assert result.get(timeout=WAIT) == 5
        for one in (result, *result.parent, result.parent.parent):
            one.get(timeout=WAIT)
            assert "o-7" in harness.backend.get_task_meta(one.id)["order"], one

    def test_stamp_does_not_hide_a_field_of_the_result(self, harness: Harness) -> None:
        work = harness.tasks.add.s(1, 1)
        names = ("status", "result", "traceback", "children", "date_done", "date_sent", "worker")
        work.stamp(Stamp(**dict.fromkeys(names, "a stamp")))
        result = work.apply_async()
        assert result.get(timeout=WAIT) == 2
        again = harness.client().app.AsyncResult(result.id)
        assert (again.state, again.result, again.traceback, again.children) == ("SUCCESS", 2, None, [])
        assert again.worker != "a stamp"
        record = stored(harness, result.id)
        assert record is not None
        assert record.stamps is not None

    def test_task_without_stamps_has_no_stamped_headers(self, harness: Harness) -> None:
        result = harness.tasks.add.delay(1, 1)
        result.get(timeout=WAIT)
        assert "stamped_headers" not in harness.backend.get_task_meta(result.id)
