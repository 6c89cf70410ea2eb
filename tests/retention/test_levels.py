"""How long a result is kept: of any two levels, the nearer one wins."""

from __future__ import annotations

import itertools
import logging
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, current_task
from celery.app.task import Context

import rootcellar
from rootcellar.errors import ConfigurationError
from rootcellar.retention.policy import (
    CALL,
    FAILURES,
    LEVELS,
    MIN_UNFINISHED_SECONDS,
    NOT_GIVEN,
    RESULTS,
    RULE,
    TASK,
    Facts,
    Retention,
    level_of,
)
from rootcellar.retention.rules import read_rules

DAY = 86_400.0


def app_of(folder: Path, **conf: Any) -> Celery:
    app = Celery(
        "kept", broker="memory://", backend=f"rootcellar+sqlite:///{folder}/kept.sqlite3", set_as_current=False
    )
    app.conf.update(conf)
    return app


def one() -> int:
    return 1


@pytest.mark.parametrize(("nearer", "farther"), list(itertools.combinations(LEVELS, 2)))
@pytest.mark.parametrize("seconds", [DAY, None], ids=["a day", "for ever"])
def test_nearer_of_two_levels_wins(nearer: str, farther: str, seconds: float | None) -> None:
    says = {farther: 7 * DAY, nearer: seconds}
    rules = read_rules([{"task": "reports.*", "keep": says[RULE]}] if RULE in says else [])
    # 0 is for ever; None is a setting that is not given
    failures = (says[FAILURES] or 0) if FAILURES in says else None
    policy = Retention(says.get(RESULTS, 99 * DAY), failures, rules=rules)
    facts = Facts(
        state="FAILURE",
        name="reports.daily",
        by_call=says.get(CALL, NOT_GIVEN),
        by_task=says.get(TASK, NOT_GIVEN),
    )
    decision = policy.decide(facts)
    assert (decision.level, decision.seconds) == (nearer, seconds)


def test_failures_of_a_task_are_kept_for_ever_and_its_successes_for_a_month(tmp_path: Path) -> None:
    app = app_of(
        tmp_path,
        result_retention=[
            {"task": "billing.charge", "state": "FAILURE", "keep": "for ever"},
            {"task": "billing.charge", "state": "SUCCESS", "keep": "30d"},
        ],
    )

    @app.task(shared=False, name="billing.charge")
    def charge(amount: int) -> int:
        return 10 // amount

    backend = app.backend
    for task_id, state, result in (("a", "SUCCESS", 1), ("b", "FAILURE", ZeroDivisionError("x"))):
        request = Context(id=task_id, task="billing.charge")
        backend.store_result(task_id, result, state, request=request)
    success, failure = backend.store.get("a"), backend.store.get("b")
    assert success.expires_at - success.done_at == timedelta(days=30)
    assert failure.expires_at is None


def test_first_matching_rule_counts() -> None:
    rules = read_rules(
        [
            {"task": ["reports.*", "exports.*"], "state": "FAILURE", "queue": "slow*", "keep": "90d"},
            {"task": "reports.*", "larger_than": "1KB", "keep": "1d"},
            {"queue": "slow", "keep": "2d"},
            {"state": ["FAILURE", "REVOKED"], "keep": "3d"},
        ]
    )
    policy = Retention(9 * DAY, rules=rules)

    def days(**facts: Any) -> float:
        seconds = policy.decide(Facts(**facts)).seconds
        assert seconds
        return seconds / DAY

    assert days(state="FAILURE", name="reports.a", queue="slow-1") == 90
    assert days(state="SUCCESS", name="reports.a", queue="slow-1", size=1025) == 1
    assert days(state="SUCCESS", name="reports.a", queue="slow", size=1024) == 2
    assert days(state="REVOKED", name="reports.a", queue="fast") == 3
    assert days(state="SUCCESS", name="reports.a", queue="fast") == 9
    # a pattern is not met by what is not known, and every character counts
    assert days(state="FAILURE", queue="slow-1") == 3
    assert days(state="SUCCESS", name="Reports.a", queue="fast", size=9999) == 9


def test_cached_answer_is_the_decision_for_every_size() -> None:
    rules = read_rules(
        [
            {"larger_than": 100, "keep": "1d"},
            {"larger_than": 10, "state": "SUCCESS", "keep": "2d"},
            {"larger_than": 1000, "keep": "3d"},
            {"task": "a", "keep": "4d"},
        ]
    )
    policy, now = Retention(5 * DAY, 6 * DAY, rules=rules), datetime.now(timezone.utc)
    for size, state, name in itertools.product(
        (0, 9, 10, 11, 99, 100, 101, 1000, 1001, 10**7), ("SUCCESS", "FAILURE", "REVOKED"), ("a", "b", None)
    ):
        decided = policy.decide(Facts(state=state, name=name, size=size)).seconds
        assert decided is not None
        for _ in range(2):
            assert policy.expiry(now, name, state, None, size, None) == now + timedelta(seconds=decided)


@pytest.mark.parametrize(
    ("rules", "results", "expected"),
    [
        ([], 300.0, 300.0),
        ([{"task": "health.*", "keep": 300}], 5 * DAY, MIN_UNFINISHED_SECONDS),
        ([{"task": "health.*", "state": "SUCCESS", "keep": 300}], 5 * DAY, 5 * DAY),
        ([{"task": "health.*", "state": "FAILURE", "keep": None}], 5 * DAY, None),
        ([{"task": "health.*", "larger_than": 10, "keep": "9d"}, {"keep": "1h"}], 5 * DAY, 9 * DAY),
    ],
)
@pytest.mark.parametrize("state", ["STARTED", "RETRY", "SENT", "PROGRESS"])
def test_task_that_has_not_ended_is_kept_for_its_longest_time(
    state: str, rules: list[dict[str, Any]], results: float, expected: float | None
) -> None:
    policy = Retention(results, rules=read_rules(rules))
    assert policy.decide(Facts(state=state, name="health.ping")).seconds == expected


def test_started_task_outlives_a_short_time_of_its_call(tmp_path: Path) -> None:
    app = app_of(tmp_path)
    request = _request(**rootcellar.expires("5m"))
    app.backend.store_result("a", None, "STARTED", request=request)
    started = app.backend.store.get("a")
    assert started.expires_at > datetime.now(timezone.utc) + timedelta(hours=23)
    app.backend.store_result("a", 1, "SUCCESS", request=request)
    assert app.backend.store.get("a").expires_at < datetime.now(timezone.utc) + timedelta(minutes=6)


def _request(**headers: Any) -> Any:
    return Context(id="a", task="reports.daily", **headers)


@pytest.mark.parametrize("given", ["7 dayz", -1, True, [], {"a": 1}, "1e400"])
def test_wrong_header_is_logged_and_the_result_is_kept(
    given: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = app_of(tmp_path, result_retention=[{"task": "reports.*", "keep": "3d"}])
    with caplog.at_level(logging.ERROR):
        app.backend.store_result("a", 1, "SUCCESS", request=_request(result_expires=given))
    record = app.backend.store.get("a")
    assert record.expires_at - record.done_at == timedelta(days=3)
    assert "Task a: the header result_expires is" in caplog.text


def test_wrong_attribute_of_a_task_is_logged_once_and_the_result_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = app_of(tmp_path, result_expires=DAY)
    app.task(shared=False, name="t", result_expires="soon")(one)
    request = Context(id="a", task="t")
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            app.backend.store_result("a", 1, "SUCCESS", request=request)
    assert "result_expires of task t is 'soon'" in caplog.text
    assert caplog.text.count("The attribute is ignored") == 1
    record = app.backend.store.get("a")
    assert record.expires_at - record.done_at == timedelta(days=1)


@pytest.mark.parametrize("given", ["7d", timedelta(days=7), 7 * DAY, "604800"])
def test_task_has_a_time_of_its_own(given: Any, tmp_path: Path) -> None:
    app = app_of(tmp_path)
    app.task(shared=False, name="t", result_expires=given)(one)
    app.backend.store_result("a", 1, "SUCCESS", request=Context(id="a", task="t"))
    record = app.backend.store.get("a")
    assert (record.expires_at - record.done_at) // timedelta(milliseconds=1) == 7 * DAY * 1000
    assert level_of(record) == TASK


@pytest.mark.parametrize("given", [None, 0, "for ever"])
def test_task_is_kept_for_ever(given: Any, tmp_path: Path) -> None:
    app = app_of(tmp_path)
    app.task(shared=False, name="t", result_expires=given)(one)
    app.backend.store_result("a", 1, "SUCCESS", request=Context(id="a", task="t"))
    assert app.backend.store.get("a").expires_at is None


@pytest.mark.parametrize("is_bound", [True, False])
@pytest.mark.parametrize("time", ["90d", None])
def test_running_task_says_how_long_its_result_is_kept(is_bound: bool, time: str | None, tmp_path: Path) -> None:
    app = app_of(tmp_path, task_store_eager_result=True)

    def bound(self: Any) -> int:
        rootcellar.keep(self, time)
        return 1

    def unbound() -> int:
        rootcellar.keep(current_task, time)
        return 1

    task = app.task(shared=False, name="t", bind=is_bound, result_expires="1d")(bound if is_bound else unbound)
    found = task.apply(headers=rootcellar.expires("2d"))
    assert found.get() == 1
    record = app.backend.store.get(found.id)
    if time is None:
        assert record.expires_at is None
    else:
        assert (record.expires_at - record.done_at).days == 90
        assert level_of(record) == CALL


def test_call_counts_more_than_the_task(tmp_path: Path) -> None:
    app = app_of(tmp_path, task_store_eager_result=True)
    task = app.task(shared=False, name="t", result_expires="1d")(one)
    record = app.backend.store.get(task.apply(headers=rootcellar.expires("2d")).id)
    assert (record.expires_at - record.done_at).days == 2
    assert app.backend.store.get(task.apply(headers=rootcellar.expires(None)).id).expires_at is None


def test_keep_does_nothing_in_a_plain_call_and_refuses_what_is_no_task(tmp_path: Path) -> None:
    app = app_of(tmp_path)

    def run(self: Any) -> int:
        rootcellar.keep(self, "1d")
        return 1

    assert app.task(shared=False, name="t", bind=True)(run)() == 1
    with pytest.raises(ConfigurationError, match="is not a task"):
        rootcellar.keep(42, "1d")
    with pytest.raises(ConfigurationError, match='did you mean "1d"'):
        rootcellar.keep(app.tasks["t"], "1dayz")


def test_saved_group_follows_rules_without_task_and_queue(tmp_path: Path) -> None:
    app = app_of(tmp_path, result_retention=[{"task": "*", "keep": "1d"}, {"state": "SUCCESS", "keep": "2d"}])
    result = app.GroupResult("g", [app.AsyncResult("a")])
    result.save()
    group = app.backend.store.get_group("g")
    assert group.expires_at - group.done_at == timedelta(days=2)


def test_ignored_result_whose_end_is_kept_follows_the_rules(tmp_path: Path) -> None:
    app = app_of(tmp_path, result_history="ignored too")
    request = _request(**rootcellar.expires("2d"))
    record = app.backend.recorder.ended_unstored(request, "SUCCESS")
    assert record.expires_at is not None
    assert record.done_at is not None
    assert (record.expires_at - record.done_at).days == 2
