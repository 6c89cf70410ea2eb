"""The time of a rule where it is stored: as a time to live, as a date, and in the conditions of archiving."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta, timezone
from typing import Any

import pymongo
import pytest
import redis
from celery import Celery
from celery.app.task import Context

import rootcellar
from rootcellar.backend.sent_with import sent_with
from rootcellar.records import TaskRecord
from rootcellar.retention.policy import CALL, Facts, Retention, level_of
from rootcellar.retention.rules import ARCHIVE, read_rules
from rootcellar.stores import Store
from rootcellar.stores.search import Search, Searchable, Segment
from rootcellar.testing.helpers import able, json_payload, record
from rootcellar.testing.suites.store.exactness import OTHER_PAYLOADS
from tests.conformance.registered import MONGO, REDIS

NOW = datetime.now(timezone.utc)
RULES = [{"task": "health.*", "state": "FAILURE", "keep": "for ever"}, {"task": "health.*", "keep": "5m"}]
RETENTION: dict[str, Any] = {"result_retention": RULES}


def app_at(url: str, **conf: Any) -> Celery:
    app = Celery("kept", broker="memory://", backend=f"rootcellar+{url}", set_as_current=False)
    app.conf.update(conf)
    return app


def store_both(app: Celery) -> None:
    """Store a success and a failure of a task that rules match."""
    request = Context(id="ok", task="health.ping")
    app.backend.store_result("ok", 1, "SUCCESS", request=request)
    app.backend.store_result("no", ValueError("x"), "FAILURE", request=Context(id="no", task="health.ping"))


def test_rule_is_the_time_to_live_on_redis(request: pytest.FixtureRequest) -> None:
    with REDIS.new_place(request) as url:
        store_both(app_at(url, **RETENTION))
        with redis.Redis.from_url(url) as client:
            assert 290_000 < client.pttl("celery-task-meta-ok") <= 300_000
            assert client.pttl("celery-task-meta-no") == -1


def test_rule_is_the_time_to_live_on_mongodb(request: pytest.FixtureRequest) -> None:
    with MONGO.new_place(request) as url:
        store_both(app_at(url, **RETENTION))
        with pymongo.MongoClient[dict[str, Any]](url, tz_aware=True) as client:
            found = {one["_id"]: one for one in client.get_default_database()["celery_taskmeta"].find()}
        left = found["ok"]["expires_at"] - datetime.now(timezone.utc)
        assert timedelta(minutes=4) < left <= timedelta(minutes=5)
        assert found["no"].get("expires_at") is None


def test_time_of_a_call_is_recognised_after_it_was_stored(sql_store: Store) -> None:
    app = app_at("sqlite:///unused.sqlite3", result_expires=86_400)
    for task_id, headers in (("call", rootcellar.expires("7d")), ("setting", {})):
        request = Context(id=task_id, task="t", **headers)
        sql_store.put(app.backend.recorder.record(task_id, 1, "SUCCESS", None, request))
    found = sql_store.get_many(["call", "setting"])
    assert {task_id: level_of(one) for task_id, one in found.items()} == {"call": CALL, "setting": None}


def test_retry_keeps_the_header_of_its_call() -> None:
    app = app_at("sqlite:///unused.sqlite3")
    task = app.task(shared=False, name="t")(one)
    request = Context({"id": "a", "task": "t", "args": (), "kwargs": {}, **rootcellar.expires("7d")})
    assert task.signature_from_request(request).options["headers"] == rootcellar.expires("7d")
    assert sent_with(request)["headers"] == rootcellar.expires("7d"), "for `rootcellar retry`"


def one() -> int:
    return 1


def test_sent_task_is_kept_from_its_eta() -> None:
    app = app_at("sqlite:///unused.sqlite3")
    eta = NOW + timedelta(days=10)
    request = Context(id="a", task="t", eta=eta.isoformat(), **rootcellar.expires("7d"))
    sent = app.backend.recorder.sent(request)
    assert sent.expires_at is not None
    assert (sent.expires_at - eta).days == 7


# -- archiving

ARCHIVING = [
    {"task": "a.*", "state": "FAILURE", "keep": 1},
    {"task": ["a.*", "b"], "queue": "q*", "keep": 1, "then": "archive", "archive_for": "7y"},
    {"larger_than": 100, "keep": 1},
    {"state": ["SUCCESS", "REVOKED"], "larger_than": 50, "keep": 1, "then": "archive"},
    {"task": "c", "keep": 1},
    {"queue": "z", "keep": 1, "then": "archive", "archive_for": "1d"},
]


def results() -> list[TaskRecord]:
    """Return results of every combination that the rules tell apart."""
    sizes = (json_payload("x"), json_payload("x" * 60), json_payload("x" * 200), None)
    combinations = itertools.product(
        ("a.x", "b", "c", "A.x", None), ("SUCCESS", "FAILURE", "REVOKED", "STARTED"), ("q1", "z", "Q", None), sizes
    )
    return [
        record(
            name=name,
            state=state,
            queue=queue,
            result=result,
            done_at=None if state == "STARTED" else NOW,
            expires_at=NOW + timedelta(days=1),
        )
        for name, state, queue, result in combinations
    ]


def test_condition_of_archiving_finds_what_the_first_matching_rule_archives(sql_store: Store) -> None:
    retention = Retention(1.0, rules=read_rules(ARCHIVING))
    expected = set()
    for one in results():
        sql_store.put(one)
        size = 0 if one.result is None else len(one.result.body)
        rule = retention.rule_of(Facts(name=one.name, state=one.state, queue=one.queue, size=size))
        if one.state != "STARTED" and rule is not None and rule.then == ARCHIVE:
            expected.add(one.task_id)
    assert 0 < len(expected) < len(results())
    assert found_by(sql_store, retention) == expected


def found_by(store: Store, retention: Retention) -> set[str]:
    condition = retention.archiving()
    assert condition is not None
    searchable = able(store, Searchable)
    return {
        found.record.task_id
        for segment in (Segment.FINISHED, Segment.UNFINISHED, Segment.TIMELESS)
        for found in searchable.search(Search(segment=segment, condition=condition, limit=10_000))
    }


def test_encrypted_result_of_unknown_size_is_archived_and_not_deleted(sql_store: Store) -> None:
    sealed = record(result=OTHER_PAYLOADS["encrypted"], done_at=NOW)
    sql_store.put(sealed)
    archived = {"larger_than": "1GB", "keep": 1, "then": "archive"}
    deleted = {"larger_than": "1", "keep": 1}
    everything = {"keep": 1, "then": "archive"}
    for rules in ([archived], [deleted, everything]):
        assert found_by(sql_store, Retention(1.0, rules=read_rules(rules))) == {sealed.task_id}


def test_no_rule_archives() -> None:
    assert Retention(1.0, rules=read_rules([{"keep": 1}])).archiving() is None


@pytest.mark.parametrize(
    ("fields", "days"),
    [
        ({"name": "b", "queue": "q1"}, 7 * 365),
        ({"name": "x", "queue": "z"}, 1),
        ({"name": "x", "queue": "z", "result": json_payload("x" * 60)}, None),
        ({"name": "x", "queue": "y"}, None),
        ({"name": "b", "queue": "q1", "expires_at": None}, None),
    ],
)
def test_archive_keeps_a_result_for_the_time_of_its_rule_after_its_expiry(
    fields: dict[str, Any], days: int | None
) -> None:
    retention = Retention(1.0, rules=read_rules(ARCHIVING))
    one = record(**{"done_at": NOW, "expires_at": NOW + timedelta(days=3), "result": None, **fields})
    expected = None if days is None else NOW + timedelta(days=3 + days)
    assert retention.archive_expiry(one) == expected
