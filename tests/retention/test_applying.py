"""Changed rules are applied to stored results: `rootcellar retention apply`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context

import rootcellar
from rootcellar.errors import AbilityMissing
from rootcellar.history import applying
from rootcellar.history.applying import Applying
from rootcellar.records import TaskRecord
from rootcellar.retention.policy import Retention
from rootcellar.retention.rules import read_rules
from rootcellar.stores import Store, open_store
from rootcellar.stores.counting import Counted, Kind
from rootcellar.testing.helpers import able, json_payload, record
from tests.conformance.registered import HYBRID, MONGO, REDIS
from tests.older.tables import enable, opened

DAY = timedelta(days=1)
NOW = datetime.now(timezone.utc).replace(microsecond=0)


def stored(store: Store, **fields: Any) -> TaskRecord:
    """Store a result that ended an hour ago and was kept for a day by the settings."""
    done_at = NOW - timedelta(hours=1)
    one = record(**{"name": "reports.daily", "done_at": done_at, "expires_at": done_at + DAY, **fields})
    store.put(one)
    return one


def rules(*given: dict[str, Any], results: float = 86_400.0) -> Retention:
    return Retention(results, rules=read_rules(given))


def kept(store: Store, one: TaskRecord) -> timedelta | None:
    """Return how long a stored result is kept after the end of its task; ``None`` for ever."""
    found = store.get(one.task_id)
    assert found is not None
    assert found.done_at is not None
    return None if found.expires_at is None else found.expires_at - found.done_at


def test_stored_results_follow_changed_rules(sql_store: Store) -> None:
    longer, failure, other = (
        stored(sql_store),
        stored(sql_store, state="FAILURE"),
        stored(sql_store, name="other"),
    )
    large = stored(sql_store, name="large", result=json_payload("x" * 2000))
    unfinished = stored(sql_store, state="STARTED", done_at=None, expires_at=NOW + DAY)
    retention = rules(
        {"task": "reports.*", "state": "FAILURE", "keep": "for ever"},
        {"task": "reports.*", "keep": "30d"},
        {"larger_than": "1KB", "keep": "30m"},
    )
    would = Applying(sql_store, retention).run(dry_run=True)
    assert (would.seen, would.longer, would.shorter, would.due) == (4, 2, 1, 1)
    assert kept(sql_store, longer) == DAY, "a dry run changes nothing"
    assert len(would.examples) == 3
    done = Applying(sql_store, retention).run()
    assert done.changed == 3
    assert kept(sql_store, longer) == 30 * DAY
    assert kept(sql_store, failure) is None
    assert kept(sql_store, other) == DAY
    assert kept(sql_store, large) == timedelta(minutes=30)
    assert sql_store.get(unfinished.task_id) == unfinished
    again = Applying(sql_store, retention).run()
    assert (again.changed, again.for_ever) == (0, 0)
    sql_store.delete_expired(datetime.now(timezone.utc))
    assert sql_store.get(large.task_id) is None


def test_result_that_its_owner_keeps_is_not_changed(sql_store: Store, tmp_path: Path) -> None:
    app = Celery("kept", broker="memory://", backend=f"rootcellar+sqlite:///{tmp_path}/a.sqlite3", set_as_current=False)
    app.task(shared=False, name="billing.charge", result_expires="7y")(lambda_task)
    call, task = (
        app.backend.recorder.record(name, 1, "SUCCESS", None, Context(id=name, task="billing.charge", **headers), None)
        for name, headers in (("call", rootcellar.expires("5m")), ("task", {}))
    )
    for_ever = stored(sql_store, expires_at=None)
    sql_store.put(call)
    sql_store.put(task)
    retention = rules({"task": "*", "keep": "2d"})
    without_app = Applying(sql_store, retention).run()
    assert (without_app.changed, without_app.by_owner, without_app.by_task, without_app.for_ever) == (0, 1, 1, 1)
    same_app = Applying(sql_store, retention, tasks=app.tasks.get).run()
    assert (same_app.changed, same_app.by_owner, same_app.by_task) == (0, 1, 0)
    app.tasks["billing.charge"].result_expires = "8y"
    other_app = Applying(sql_store, retention, tasks=app.tasks.get).run()
    assert (other_app.longer, other_app.shorter) == (1, 0)
    found = sql_store.get("task")
    assert found is not None
    assert found.expires_at is not None
    assert found.done_at is not None
    assert (found.expires_at - found.done_at).days == 8 * 365
    assert sql_store.get("call") == call
    assert kept(sql_store, for_ever) is None
    assert Applying(sql_store, retention, with_for_ever=True).run().shorter == 1
    assert kept(sql_store, for_ever) == 2 * DAY


def lambda_task() -> int:
    return 1


def test_results_without_a_rule_stay_if_the_settings_are_not_known(sql_store: Store) -> None:
    other, ruled = stored(sql_store, name="other", expires_at=NOW + 9 * DAY), stored(sql_store)
    retention = rules({"task": "reports.*", "keep": "2d"})
    assert Applying(sql_store, retention, knows_settings=False).run().changed == 1
    assert sql_store.get(other.task_id) == other
    assert kept(sql_store, ruled) == 2 * DAY


def test_task_that_is_stored_meanwhile_keeps_its_own_expiry(sql_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = stored(sql_store, state="FAILURE")
    newer = record(task_id=failed.task_id, name=failed.name, state="SUCCESS", done_at=NOW, expires_at=NOW + 5 * DAY)
    applied = Applying(sql_store, rules({"keep": "1h"}))
    change = applied._postponable.set_expiries

    def after_a_worker_has_stored(changes: Any) -> int:
        sql_store.put(newer)
        return change(changes)

    monkeypatch.setattr(applied._postponable, "set_expiries", after_a_worker_has_stored)
    done = applied.run()
    assert (done.changed, done.stored_again) == (0, 1)
    found = sql_store.get(failed.task_id)
    assert found is not None
    assert found.expires_at == newer.expires_at


def test_interrupted_run_is_finished_by_the_next_one(sql_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applying, "BATCH", 4)
    ones = [stored(sql_store) for _ in range(10)]
    retention = rules({"keep": "2d"})
    seen: list[int] = []

    def interrupt(count: int) -> None:
        seen.append(count)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Applying(sql_store, retention).run(on_progress=interrupt)
    assert seen == [4, 4]
    assert sorted(kept(sql_store, one) == 2 * DAY for one in ones) == [False] * 2 + [True] * 8
    assert Applying(sql_store, retention).run().changed == 2
    assert {kept(sql_store, one) for one in ones} == {2 * DAY}


def test_workers_store_while_rules_are_applied(sql_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applying, "BATCH", 20)
    ones = [stored(sql_store, state="FAILURE") for _ in range(100)]
    stop = threading.Event()

    def store_again() -> None:
        for one in ones[::2]:
            sql_store.put(record(task_id=one.task_id, name=one.name, done_at=NOW, expires_at=NOW + 7 * DAY))
        stop.set()

    thread = threading.Thread(target=store_again)
    thread.start()
    try:
        while not stop.is_set():
            Applying(sql_store, rules({"state": "FAILURE", "keep": "2d"})).run()
    finally:
        thread.join()
    Applying(sql_store, rules({"state": "FAILURE", "keep": "2d"}, results=7 * 86_400.0)).run()
    assert [kept(sql_store, one) for one in ones] == [7 * DAY, 2 * DAY] * 50


def test_counts_do_not_change_when_rules_are_applied(sql_store: Store) -> None:
    for _ in range(5):
        stored(sql_store)
    counted = able(sql_store, Counted)
    roll_all(counted)
    before = counted.names(Kind.TASK)
    assert before
    assert Applying(sql_store, rules({"keep": "2d"})).run().changed == 5
    roll_all(counted)
    assert counted.names(Kind.TASK) == before


def roll_all(counted: Counted) -> None:
    while not counted.roll(budget=10).is_done:
        pass


@pytest.fixture(params=[REDIS, MONGO], ids=str)
def expiring_store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """A store whose server deletes what has expired."""
    with request.param.new_place(request) as url:
        store = open_store(url)
        yield store
        store.close()


def test_store_whose_server_deletes_refuses(expiring_store: Store) -> None:
    with pytest.raises(AbilityMissing, match="cannot apply changed rules") as caught:
        Applying(expiring_store, rules({"keep": "2d"}))
    assert "rootcellar forget" in caught.value.remedy


def test_rules_are_applied_to_the_durable_store_of_a_hybrid(request: pytest.FixtureRequest) -> None:
    with HYBRID.new_place(request) as url:
        store = open_store(url)
        one = stored(store)
        assert Applying(store, rules({"keep": "2d"})).run().changed == 1
        found = store.durable.get(one.task_id)  # type: ignore[attr-defined]
        assert found.expires_at - found.done_at == 2 * DAY
        store.close()


def test_rules_are_applied_to_results_in_the_older_table(postgres_url: str) -> None:
    with opened(postgres_url) as (store, older):
        enable(store, older)
        done_at = NOW - 5 * DAY
        ones = [stored(store, done_at=done_at, expires_at=done_at + 30 * DAY) for _ in range(3)]
        live = stored(store)
        assert older.move(NOW, 2 * DAY, 10, None).count == 3
        done = Applying(store, rules({"keep": "60d"})).run()
        assert (done.seen, done.changed, done.stored_again) == (4, 4, 0)
        assert {kept(store, one) for one in (*ones, live)} == {60 * DAY}
        assert Applying(store, rules({"keep": "60d"})).run().changed == 0
