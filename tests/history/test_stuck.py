"""Tasks that are late or stuck: what the rows of every store say, and a worker that was killed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from rootcellar.errors import AbilityMissing
from rootcellar.history import stuck
from rootcellar.history.filters import Matcher, parse
from rootcellar.history.history import History
from rootcellar.history.stuck import Limits
from rootcellar.payloads import codec_of
from rootcellar.records import Payload, TaskRecord
from rootcellar.stores import Store
from rootcellar.testing.gate import Gate
from rootcellar.testing.harness import Harness, open_harness
from rootcellar.testing.helpers import PATIENCE, new_id, wait_until
from rootcellar.testing.suites.backend.fixtures import gate  # noqa: F401 - a fixture
from rootcellar.testing.under_test import StoreUnderTest, WorkerUnderTest
from tests.conformance.registered import MYSQL, POSTGRES, REDIS_BROKER
from tests.history.stores import ALL, opened

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


class _Names:
    """Names of tasks that no other test has, because counts stay when rows are deleted; and the begin of the test."""

    def __init__(self) -> None:
        self._number = 0
        self.now = datetime.now(timezone.utc)

    def begin(self) -> None:
        self._number += 1
        self.now = datetime.now(timezone.utc)

    def __call__(self, name: str) -> str:
        return f"shop{self._number}.{name}"


_names = _Names()


@pytest.fixture(scope="module", params=ALL, ids=str)
def place(request: pytest.FixtureRequest) -> Iterator[Store]:
    under_test: StoreUnderTest = request.param
    with opened(under_test, request) as store:
        yield store


@pytest.fixture
def history(place: Store) -> History:
    """A history of a store that is empty at the begin of the test, whose counts know nothing of the test's tasks."""
    _names.begin()
    while ids := [record.task_id for record in place.scan()]:
        place.delete(ids)
    return History(place, codec_of({}), zone=timezone.utc, owns_store=False)


def put(history: History, task_id: str, **given: Any) -> TaskRecord:
    record = TaskRecord(task_id=task_id, **{"name": _names("pack"), "worker": "celery@a", "retries": 0, **given})
    history.store.put(record)
    return record


def put_run(history: History, length: timedelta, wait: timedelta = SECOND, ago: timedelta = HOUR, **given: Any) -> None:
    """Store a task that has ended."""
    end = _names.now - ago
    times = {"sent_at": end - length - wait, "started_at": end - length, "done_at": end}
    put(history, new_id(), **{"state": "SUCCESS", **times, **given})


def put_running(history: History, task_id: str, length: timedelta, **given: Any) -> None:
    start = _names.now - length
    put(history, task_id, **{"state": "STARTED", "sent_at": start - SECOND, "started_at": start, **given})


def put_waiting(history: History, task_id: str, length: timedelta, **given: Any) -> None:
    put(history, task_id, **{"state": "SENT", "sent_at": _names.now - length, "worker": None, "retries": None, **given})


def found(history: History, filter: str) -> set[str]:
    return {record.task_id for record in history.tasks(filter)}


def test_task_that_runs_longer_than_ever_on_a_silent_worker_is_stuck(history: History) -> None:
    put_run(history, 10 * MINUTE)
    put_run(history, 20 * MINUTE, state="FAILURE")
    put_run(history, 50 * HOUR, name=_names("other"))
    put_running(history, "as usual", 15 * MINUTE)
    put_running(history, "longer", 25 * MINUTE)
    put_running(history, "longest", 30 * MINUTE, state="PROGRESS")
    put_running(history, "other", 40 * HOUR, name=_names("other"))
    tasks = history.stuck()
    assert [task.record.task_id for task in tasks] == ["longest", "longer"]
    assert tasks[1].usual == 20 * MINUTE
    assert tasks[1].record == history.store.get("longer")
    assert abs(tasks[1].since - (_names.now - 25 * MINUTE)) < SECOND
    assert "the longest of 2 runs took 20 min" in tasks[1].why
    assert "its worker has started and ended nothing for 5 min" in tasks[1].why
    assert found(history, "is:stuck") == found(history, "is:late") == {"longer", "longest"}


@pytest.mark.parametrize("sign", ["ended", "started"])
def test_task_of_a_worker_that_gives_a_sign_is_late_but_not_stuck(history: History, sign: str) -> None:
    put_run(history, MINUTE)
    put_running(history, "late", 20 * MINUTE)
    put_running(history, "lost", 20 * MINUTE, worker="celery@b")
    if sign == "ended":
        put_run(history, SECOND, name=_names("other"), ago=2 * MINUTE)
    else:
        put_running(history, "young", 2 * MINUTE, name=_names("other"))
    assert [task.record.task_id for task in history.stuck()] == ["lost"]
    assert found(history, "is:late") == {"late", "lost"}
    assert found(history, "is:late -is:stuck") == {"late"}
    assert not history.stuck("worker:celery@a")


def test_task_without_earlier_runs_is_stuck_after_an_hour(history: History) -> None:
    put_running(history, "young", 50 * MINUTE)
    put_running(history, "old", 70 * MINUTE)
    (task,) = history.stuck()
    assert (task.record.task_id, task.usual) == ("old", None)
    assert "no earlier run has ended" in task.why


def test_sent_task_that_was_never_started_is_stuck(history: History) -> None:
    put_run(history, SECOND, wait=5 * MINUTE)
    put_run(history, SECOND, wait=40 * MINUTE, name=_names("slow"))
    put_waiting(history, "young", 4 * MINUTE)
    put_waiting(history, "late", 10 * MINUTE)
    put_waiting(history, "old", 16 * MINUTE)
    put_waiting(history, "as usual", 30 * MINUTE, name=_names("slow"))
    put_waiting(history, "unknown", 2 * HOUR, name=_names("new"))
    tasks = history.stuck()
    assert [task.record.task_id for task in tasks] == ["unknown", "old"]
    assert "it was sent and has not started for 2 h" in tasks[0].why
    assert (tasks[0].usual, tasks[1].usual) == (None, 5 * MINUTE)
    assert found(history, "is:late") == {"late", "old", "unknown"}


def test_sent_task_is_not_late_before_its_eta(history: History) -> None:
    for task_id, eta in (("before", _names.now + HOUR), ("after", _names.now - HOUR)):
        put_waiting(history, task_id, 9 * HOUR, result=Payload(f'{{"eta": "{eta.isoformat()}"}}'.encode()))
    (task,) = history.stuck()
    assert task.record.task_id == "after"
    assert abs(task.since - (_names.now - HOUR)) < SECOND


def test_task_that_waits_for_a_retry_or_has_ended_is_not_late(history: History) -> None:
    put_run(history, 9 * HOUR, ago=SECOND)
    put_run(history, MINUTE, ago=8 * HOUR, name=_names("other"))
    put_running(history, "retry", 9 * HOUR, state="RETRY", name=_names("other"))
    put(history, "no times", state="STARTED")
    assert not history.stuck()
    assert found(history, "is:late") == set()
    assert found(history, "state:unfinished -is:late") == {"retry", "no times"}


def test_words_can_be_combined_with_others(history: History) -> None:
    put_run(history, MINUTE, retries=2)
    put_running(history, "a", 2 * HOUR)
    put_running(history, "b", 2 * HOUR, name=_names("other"), retries=1)
    put_running(history, "c", 2 * MINUTE, worker="celery@b", name=_names("other"), retries=1)
    assert found(history, f"is:stuck task:{_names('pack')}") == {"a"}
    assert found(history, "is:stuck,retried state:unfinished") == {"a", "b", "c"}
    assert found(history, "(is:stuck OR worker:celery@b) is:retried") == {"b", "c"}
    assert found(history, "-is:stuck state:unfinished") == {"c"}
    assert [task.record.task_id for task in history.stuck("is:retried")] == ["b"]
    assert history.count("is:stuck").value == 2


def test_limits_decide_from_when_on_a_task_is_stuck(history: History) -> None:
    put_run(history, SECOND, wait=SECOND)
    put_running(history, "runs", 30 * SECOND)
    put_waiting(history, "waits", 30 * SECOND)
    assert not history.stuck()
    quick = Limits(least_run=SECOND, least_wait=SECOND, stuck_wait=10 * SECOND, silence=10 * SECOND)
    assert {task.record.task_id for task in history.stuck(limits=quick)} == {"runs", "waits"}
    assert not history.stuck(limits=replace(quick, silence=HOUR, stuck_wait=HOUR))


def test_many_unfinished_tasks_are_looked_at_page_by_page(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stuck, "_BATCH", 7)
    for number in range(30):
        put_running(history, f"task {number}", 2 * HOUR + number * SECOND, worker=f"celery@{number}")
    assert len(history.stuck()) == 30
    assert len(found(history, "is:stuck")) == 30


def test_store_with_too_many_records_and_no_index_says_so(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stuck, "_BATCH", 2)
    monkeypatch.setattr(stuck, "MAX_SCANNED", 4)
    for number in range(9):
        put_running(history, f"task {number}", 2 * HOUR)
    if history.store.ability(stuck.Searchable) is None:
        with pytest.raises(AbilityMissing, match="no index"):
            history.stuck()
    else:
        assert len(history.stuck()) == 9


def test_one_record_does_not_show_that_it_is_stuck(history: History) -> None:
    clock = history.clock
    with pytest.raises(AbilityMissing, match="compares a task with all others"):
        Matcher(parse("is:stuck", clock).condition, clock)


# -- a worker ----------------------------------------------------------------------------------------------------------


@pytest.fixture(
    params=[WorkerUnderTest(POSTGRES, "prefork", REDIS_BROKER), WorkerUnderTest(MYSQL, "threads", REDIS_BROKER)],
    ids=str,
)
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    with open_harness(request, request.param, result_track_sent=True) as harness:
        yield harness


def test_task_of_a_killed_worker_is_stuck_once_the_worker_is_silent(harness: Harness, gate: Gate) -> None:  # noqa: F811
    """The limits of the test are short, so that the test does not wait for minutes."""
    _names.begin()
    history = History(harness.backend.store, harness.backend.codec, zone=timezone.utc, owns_store=False)
    put_run(history, timedelta(milliseconds=1), wait=timedelta(milliseconds=1), name="conformance.hold_started")
    lost = harness.tasks.hold_started.delay(gate.port)
    gate.await_arrival()
    wait_until(lambda: getattr(history.store.get(lost.id), "state", "") == "STARTED", "its start is stored")
    alive = Limits(least_run=timedelta(0), least_wait=timedelta(0), stuck_wait=timedelta(0), silence=HOUR)
    assert harness.worker is not None
    harness.worker.kill()
    never = harness.tasks.add.delay(1, 2)
    assert harness.backend._sent.flush(PATIENCE)

    def late() -> set[str]:
        everything = stuck.late_tasks(history.store, history.clock, lambda record: True, lambda record: record, alive)
        return {task.record.task_id for task in everything}

    wait_until(lambda: late() == {lost.id, never.id}, "both are late: one ran longer than the earlier one, one waits")
    assert [task.record.task_id for task in history.stuck(limits=alive)] == [never.id], "the worker was there just now"
    silent = replace(alive, silence=timedelta(milliseconds=1))
    tasks = history.stuck(limits=silent)
    assert [task.record.task_id for task in tasks] == [lost.id, never.id]
    assert tasks[0].record.worker is not None
    assert tasks[0].usual is not None
    assert tasks[1].record.started_at is None
