"""Holds: what they cover, and that nothing deletes what they cover."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from operator import ge
from typing import Any

import pytest
from celery import Celery
from celery.result import AsyncResult, GroupResult
from hypothesis import given, settings

from rootcellar.backend import holding as backend_holding
from rootcellar.errors import AbilityMissing, ResultHeld
from rootcellar.history.filters import Clock, Filter, FilterWrong, Matcher, parse
from rootcellar.history.filters.pinned import pinned
from rootcellar.history.forgetting import Forgetting
from rootcellar.history.history import History
from rootcellar.history.holds import Holds, Why, place_hold
from rootcellar.maintenance.spares import Spares
from rootcellar.payloads import Codec, codec_of, make_key
from rootcellar.payloads.blobs.references import blob_of
from rootcellar.payloads.forgetting import forget_tasks
from rootcellar.records import Payload, TaskRecord
from rootcellar.stores import Store
from rootcellar.stores.expiring import Due, Expiring
from rootcellar.stores.holding import Holding, Removed
from rootcellar.stores.search import Condition
from tests.conformance.registered import HYBRID, MYSQL, POSTGRES, SQLITE, WRITE_BEHIND
from tests.history import filter_trees
from tests.history.stores import opened

NOW = datetime.now(timezone.utc).replace(microsecond=0)
UTC = timezone.utc
SQL = [SQLITE, POSTGRES, MYSQL]
#: a cleanup with so many batches has ended
ENDED = 1_000
FACTS = filter_trees.facts(7, 100)
FAILURE = {"exc_type": "Declined", "exc_message": ["no money"], "exc_module": "shop"}


@pytest.fixture(params=SQL, ids=lambda store: store.name)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with opened(request.param, request) as store:
        yield store


@pytest.fixture
def sqlite_store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with opened(SQLITE, request) as store:
        yield store


@pytest.fixture
def codec() -> Codec:
    return codec_of({})


def payload(value: Any) -> Payload:
    return Payload(json.dumps(value).encode())


def task(task_id: str, **fields: Any) -> TaskRecord:
    values: dict[str, Any] = {
        "state": "SUCCESS",
        "name": "shop.pay",
        "queue": "low",
        "worker": "a@host",
        "started_at": NOW - timedelta(hours=1),
        "done_at": NOW - timedelta(minutes=30),
        "kwargs": payload({"order": 17}),
        "result": payload({"total": 5}),
    }
    return TaskRecord(task_id=task_id, **{**values, **fields})


def hold(store: Store, text: str, reason: str = "lawsuit", by: str = "ann", zone: timezone = UTC) -> int:
    return place_hold(store, text, Clock(datetime.now(UTC), zone), reason=reason, by=by).id


def release(store: Store, number: int) -> None:
    holding = store.ability(Holding)
    assert holding is not None
    assert holding.release_hold(number, "bob", datetime.now(UTC)) is not None


# -- what a hold covers

OTHER = task(
    "other",
    state="FAILURE",
    name="mail.send",
    queue="high",
    worker="b@host",
    started_at=NOW - timedelta(days=9),
    done_at=NOW - timedelta(days=8),
    kwargs=payload({"order": 18}),
    result=payload(FAILURE),
    retries=3,
)


FILTERS = [
    "id:paid",
    "task:shop.*",
    "state:succeeded",
    "-state:failed",
    "worker:a@*",
    "queue:low",
    "kwargs.order:17",
    "args.order:17",
    "result.total:>4",
    "since:2h",
    "done:<7d id:paid OR done:>2h",
    "runtime:<1h",
    "retries:none",
    "-error:any",
    "-declined",
    "has:result -retries:>2",
]


def test_hold_covers_exactly_what_its_filter_finds(store: Store, codec: Codec) -> None:
    store.put(task("paid"))
    for text in FILTERS:
        store.put(OTHER)
        number = hold(store, text)
        removed = Holds(store, codec).delete(["paid", "other", "none"])
        assert removed == Removed(1, frozenset({"paid"})), text
        assert store.get_many(["paid", "other"]).keys() == {"paid"}, text
        release(store, number)


def test_condition_covers_every_held_record(store: Store, codec: Codec) -> None:
    records = [task("paid"), OTHER, task("sealed", kwargs=Payload(b"x", key_id="enc:1"))]
    for record in records:
        store.put(record)
    hold(store, "kwargs.order:17")
    hold(store, "error.message:money")
    holds = Holds(store, codec)
    assert holds.held(store.get_many(["paid", "other", "sealed"]).values()) == {"paid", "other", "sealed"}
    spared = holds.condition()
    assert spared is not None
    assert not holds.is_exact
    assert holds.doubtful() is not None
    holding = store.ability(Holding)
    assert holding is not None
    assert holding.delete_spared(["paid", "other", "sealed"], spared).count == 0


def test_two_holds_keep_a_task_until_both_are_released(store: Store, codec: Codec) -> None:
    store.put(task("paid"))
    first, second = hold(store, "task:shop.*"), hold(store, "id:paid")
    holds = Holds(store, codec)
    release(store, first)
    with pytest.raises(ResultHeld, match=f"hold {second}"):
        holds.check(store.get_many(["paid"]).values())
    release(store, second)
    holds.check(store.get_many(["paid"]).values())
    assert holds.forget(["paid"]) == 1


def test_relative_time_counts_from_when_the_hold_was_placed(sqlite_store: Store, codec: Codec) -> None:
    sqlite_store.put(task("paid"))
    placed = NOW - timedelta(days=400)
    place_hold(sqlite_store, "since:7d", Clock(placed, UTC), reason="r", by="ann")
    assert Holds(sqlite_store, codec).held(sqlite_store.get_many(["paid"]).values()) == {"paid"}
    place = sqlite_store.ability(Holding)
    assert place is not None
    (kept,) = place.holds()
    assert kept.filter == f"since:{placed - timedelta(days=7):%Y-%m-%dT%H:%M:%S.%f}Z"


def test_day_of_a_hold_is_that_of_the_zone_in_which_it_was_placed(sqlite_store: Store) -> None:
    hold(sqlite_store, "done:2026-11-01", zone=timezone(timedelta(hours=2)))
    holding = sqlite_store.ability(Holding)
    assert holding is not None
    assert holding.holds()[0].filter == "done:2026-10-31T22:00:00.000000Z..2026-11-01T21:59:59.999999Z"


@settings(max_examples=60, deadline=None)
@given(query=filter_trees.filters)
def test_pinned_filter_finds_the_same_with_another_clock(query: Filter) -> None:
    clock = Clock(filter_trees.NOW, timezone(timedelta(hours=5, minutes=30)))
    later = Clock(filter_trees.NOW + timedelta(days=1000), UTC)
    kept = parse(str(pinned(query, clock)), later)
    asked, keeps = Matcher(query.condition, clock), Matcher(kept.condition, later)
    for fact in FACTS:
        assert keeps.answer(fact.record) == asked.answer(fact.record), (str(query), str(kept))


def test_value_that_cannot_be_read_counts_as_held(store: Store) -> None:
    ours = codec_of({"result_encryption_keys": [make_key()]})
    record = task("paid", kwargs=payload({"order": 99}))
    sealed = ours.sealer.seal(record.kwargs, "paid", "kwargs")  # type: ignore[arg-type]
    store.put(replace(record, kwargs=sealed))
    hold(store, "kwargs.order:17")
    stored = store.get_many(["paid"]).values()
    assert Holds(store, ours).held(stored) == set()
    without_key = Holds(store, codec_of({}))
    assert without_key.reasons(stored)["paid"].why is Why.UNREAD
    with pytest.raises(ResultHeld, match="cannot be read here, so it counts as held"):
        without_key.forget(["paid"])
    assert Holds(store, ours).forget(["paid"]) == 1


def test_filter_that_cannot_be_understood_any_more_holds_everything(store: Store, codec: Codec) -> None:
    store.put(task("paid"))
    holding = store.ability(Holding)
    assert holding is not None
    broken = holding.place_hold("colour:blue", "of a later release", "ann", NOW)
    holds = Holds(store, codec)
    assert "colour" in holds.problems()[broken.id]
    with pytest.raises(ResultHeld, match="cannot be understood any more, so it holds everything"):
        holds.forget(["paid"])
    assert store.get("paid") is not None


def test_filter_without_a_clear_meaning_is_not_held(sqlite_store: Store) -> None:
    unclear = {
        "": FilterWrong,
        "state:failed sort:done": FilterWrong,
        "colour:blue": FilterWrong,
        "is:stuck": AbilityMissing,
        "-is:late task:x": AbilityMissing,
    }
    for text, error in unclear.items():
        with pytest.raises(error):
            hold(sqlite_store, text)
    holding = sqlite_store.ability(Holding)
    assert holding is not None
    assert holding.holds(with_released=True) == []


def test_hold_does_not_stop_a_newer_state_of_the_task(store: Store, codec: Codec) -> None:
    store.put(task("paid", state="STARTED", done_at=None, result=None))
    hold(store, "id:paid")
    assert store.put(task("paid")).written
    found = store.get("paid")
    assert found is not None
    assert found.state == "SUCCESS"


def test_result_that_is_stored_after_the_hold_is_covered(store: Store, codec: Codec) -> None:
    hold(store, "task:shop.*")
    store.put(task("later"))
    with pytest.raises(ResultHeld):
        Holds(store, codec).forget(["later"])


# -- forgetting


def test_error_of_a_held_result_says_who_why_and_what_to_do(sqlite_store: Store, codec: Codec) -> None:
    sqlite_store.put(task("paid"))
    number = hold(sqlite_store, "id:paid", reason="lawsuit 17")
    with pytest.raises(ResultHeld) as caught:
        Holds(sqlite_store, codec).forget(["paid"])
    text = str(caught.value)
    for part in ("task paid", f"hold {number}", "lawsuit 17", "ann", f"rootcellar hold release {number}", "UTC"):
        assert part in text
    assert not caught.value.retryable
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own
    assert (again.task_ids, str(again)) == (("paid",), text)


def test_forgetting_many_deletes_those_that_are_not_held(store: Store, tmp_path: Any) -> None:
    codec = codec_of({"result_max_size": 10, "result_too_large": "spill", "result_blob_url": f"file://{tmp_path}"})
    spiller = codec.spiller
    assert spiller is not None
    names = {}
    for name in ("paid", "free", "lost"):
        record = task(name, result=spiller.spill(payload("large"), name))
        names[name] = str(blob_of(record))
        if name != "lost":
            store.put(record)
    hold(store, "id:paid")
    with pytest.raises(ResultHeld) as caught:
        forget_tasks(store, spiller, ["paid", "free"], Holds(store, codec))
    assert (caught.value.task_ids, caught.value.deleted) == (("paid",), 1)
    assert store.get_many(["paid", "free"]).keys() == {"paid"}
    # the blob of the held record stays, also when blobs without a record are swept
    assert spiller.sweep(store, 0.0) == 1
    assert [name for name, blob in names.items() if spiller.blobs.get(blob) is not None] == ["paid"]


def app_of(url: str) -> Celery:
    app = Celery("held", set_as_current=False)
    app.conf.result_backend = f"rootcellar+{url}"
    return app


@pytest.mark.parametrize("under_test", [*SQL, HYBRID, WRITE_BEHIND], ids=lambda store: store.name)
def test_backend_does_not_forget_a_held_result(under_test: Any, request: pytest.FixtureRequest) -> None:
    with under_test.new_place(request) as url:
        backend = app_of(url).backend
        backend.store_result("held", 1, "SUCCESS")
        backend.store_result("free", 1, "SUCCESS")
        hold(backend.store, "id:held", reason="lawsuit 17")
        result = AsyncResult("held", backend=backend)
        assert result.get(timeout=5) == 1
        with pytest.raises(ResultHeld, match="lawsuit 17"):
            result.forget()
        AsyncResult("free", backend=backend).forget()
        with pytest.raises(ResultHeld):
            GroupResult("g", [AsyncResult(one, backend=backend) for one in ("free", "held")], backend=backend).forget()
        assert app_of(url).backend.store.get_many(["held", "free"]).keys() == {"held"}
        # a release counts at once, a new hold after a minute at most
        release(backend.store, 1)
        result.forget()
        assert backend.store.get("held") is None
        backend.store.close()


def test_backend_knows_a_new_hold_after_a_minute(
    sqlite_store: Store, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = backend_holding.HoldsOfBackend(sqlite_store, codec)
    for name in ("one", "two", "three"):
        sqlite_store.put(task(name))
    assert keeper.delete(["one"]).count == 1
    hold(sqlite_store, "task:shop.*")
    assert keeper.delete(["two"]).count == 1
    monkeypatch.setattr(keeper._reader, "max_age", 0.0)
    assert keeper.delete(["three"]).kept == {"three"}


def test_forgetting_without_a_hold_reads_holds_once(
    sqlite_store: Store, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = backend_holding.HoldsOfBackend(sqlite_store, codec)
    holding = sqlite_store.ability(Holding)
    assert holding is not None
    calls: list[str] = []
    monkeypatch.setattr(sqlite_store, "holds", counted(calls, "holds", holding.holds))
    monkeypatch.setattr(sqlite_store, "delete_spared", counted(calls, "delete_spared", holding.delete_spared))
    monkeypatch.setattr(sqlite_store, "get_many", counted(calls, "get_many", sqlite_store.get_many))
    for number in range(5):
        sqlite_store.put(task(f"task-{number}"))
        keeper.delete([f"task-{number}"])
    assert calls == ["holds"]


def counted(calls: list[str], name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return method(*args, **kwargs)

    return call


def test_forgetting_by_a_filter_leaves_held_tasks(store: Store, codec: Codec) -> None:
    for number in range(10):
        store.put(task(f"task-{number}", queue="low" if number % 2 else "high"))
    hold(store, "queue:low")
    forgetting = Forgetting(History(store, codec), "task:shop.pay")
    preview = forgetting.preview()
    assert (preview.count, preview.held) == (10, 5)
    assert forgetting.run() == 5
    assert (forgetting.forgotten, forgetting.held) == (5, 5)
    assert len(list(History(store, codec).tasks())) == 5


# -- races


@contextmanager
def before_deletion(store: Store, action: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Call ``action`` once, between the reading of the holds and records and the deletion."""
    holding = store.ability(Holding)
    assert holding is not None
    delete, waiting = holding.delete_spared, [action]

    def delete_spared(ids: Any, spared: Condition) -> Removed:
        while waiting:
            waiting.pop()()
        return delete(ids, spared)

    with monkeypatch.context() as patch:
        patch.setattr(store, "delete_spared", delete_spared)
        yield


def test_hold_that_is_placed_before_the_deletion_counts(
    store: Store, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("paid", "free"):
        store.put(task(name))
    with before_deletion(store, lambda: hold(store, "id:paid"), monkeypatch):
        assert Holds(store, codec).delete(["paid", "free"]) == Removed(1, frozenset({"paid"}))
    assert store.get("paid") is not None


@pytest.mark.parametrize("text", ["state:succeeded", "state:succeeded result.total:6"])
def test_task_that_is_stored_again_before_the_deletion_is_held(
    store: Store, codec: Codec, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    store.put(task("paid", state="FAILURE", result=Payload(b"x", content_type="text/plain")))
    hold(store, text)
    newer = task("paid", done_at=NOW, result=payload({"total": 6}))
    with before_deletion(store, lambda: store.put(newer), monkeypatch):
        removed = Holds(store, codec).delete(["paid"])
    assert removed == Removed(0, frozenset({"paid"}))
    found = store.get("paid")
    assert found is not None
    assert found.state == "SUCCESS"


@pytest.mark.parametrize("text", ["queue:low", "kwargs.order:17 -declined"])
def test_held_tasks_stay_while_many_delete_store_and_place_holds(store: Store, codec: Codec, text: str) -> None:
    ids = [f"task-{number:03}" for number in range(120)]
    low = set(ids[::3])
    for task_id in ids:
        if task_id in low:
            store.put(task(task_id, state="STARTED", done_at=None))
        else:
            store.put(task(task_id, queue="high", kwargs=payload({"order": 1})))
    started, errors = threading.Barrier(4), list[BaseException]()

    def run(work: Callable[[], object]) -> None:
        try:
            started.wait(30)
            work()
        except BaseException as exc:
            errors.append(exc)

    def store_again() -> None:
        # as the same task does when it is delivered again
        for task_id in sorted(low):
            store.put(task(task_id, state="RETRY", done_at=None, result=None, retries=1))

    def place() -> None:
        for number in range(5):
            hold(store, f"id:x{number}")

    def delete() -> None:
        for start in range(0, len(ids), 7):
            Holds(store, codec).delete(ids[start : start + 7])

    hold(store, text)
    threads = [threading.Thread(target=run, args=(work,)) for work in (store_again, place, delete, delete)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert store.get_many(ids).keys() == low


@pytest.mark.parametrize("text", ["queue:low", "kwargs.order:17 -declined"])
def test_cleanups_leave_what_is_held_from_the_next_batch_on(store: Store, codec: Codec, text: str) -> None:
    expired = datetime.now(UTC) - timedelta(hours=1)
    for number in range(200):
        fields = {} if number % 2 else {"queue": "high", "kwargs": payload({"order": 1})}
        store.put(task(f"task-{number:03}", expires_at=expired, **fields))
    expiring = store.ability(Expiring)
    assert expiring is not None
    changed, errors = threading.Condition(), list[BaseException]()
    #: the batches of each cleanup that have ended
    batches = [0, 0]

    def note(number: int, count: int = 1) -> None:
        with changed:
            batches[number] += count
            changed.notify_all()

    def wait_until(reached: list[int]) -> None:
        with changed:
            assert changed.wait_for(lambda: all(map(ge, batches, reached)), timeout=60)

    def clean(number: int) -> None:
        try:
            spares, after = Spares(store, codec), None
            while True:
                spared = spares.condition()
                done = expiring.delete_expired_tasks(Due(now=NOW, limit=5, after=after, spared=spared))
                note(number)
                if done.last is None and spares.condition() == spared:
                    return
                after = done.last or after
        except BaseException as exc:
            errors.append(exc)
        finally:
            note(number, ENDED)

    threads = [threading.Thread(target=clean, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    wait_until([1, 1])
    hold(store, text)
    # then the statement of each cleanup that was running when the hold was placed has ended
    wait_until([min(count + 1, ENDED) for count in batches])
    asked = Matcher(parse(text).condition, Clock(NOW, UTC))
    held = {record.task_id for record in store.scan(limit=1000) if asked(record)}
    for thread in threads:
        thread.join(60)
    assert errors == []
    left = {record.task_id for record in store.scan(limit=1000)}
    assert left >= held
    # everything else is deleted, apart from what one spared batch leaves to the next cleanup
    clean(0)
    assert errors == []
    assert {record.task_id for record in store.scan(limit=1000)} == held
