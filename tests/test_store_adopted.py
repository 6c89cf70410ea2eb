"""Celery's own tables, renamed, are read through the store until their results expire."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context
from celery.result import AsyncResult

from rootcellar import errors
from rootcellar.history.filters import Clock
from rootcellar.history.holds import Holds, place_hold
from rootcellar.payloads import codec_of
from rootcellar.stores import Store, StoreOptions, open_store
from rootcellar.stores.base import HasSchema
from rootcellar.stores.expiring import Expiring
from rootcellar.stores.holding import Holding
from rootcellar.testing.helpers import able, json_payload, record
from rootcellar.testing.suites.store.fixtures import processes  # noqa: F401 - a fixture
from rootcellar.testing.synced_processes import SyncedProcesses
from rootcellar.testing.under_test import StoreUnderTest
from tests.conformance.registered import MYSQL, POSTGRES, SQLITE


def celery_of(url: str, **conf: Any) -> Celery:
    """Return an app with Celery's own backend, in the same database."""
    # SQLAlchemy has other default drivers for PostgreSQL and MySQL
    backend = "db+" + url.replace("postgresql:", "postgresql+psycopg:").replace("mysql:", "mysql+pymysql:")
    app = Celery("old", broker="memory://", backend=backend, set_as_current=False)
    app.conf.update(result_extended=True, **conf)
    return app


@pytest.fixture(params=[SQLITE, POSTGRES, MYSQL], ids=str)
def place(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a database in which Celery's own backend stored a success, a failure and a group."""
    under_test: StoreUnderTest = request.param
    with under_test.new_place(request) as url:
        app = celery_of(url)
        request_of_call = Context(
            id="good", task="shop.pack", args=[1], kwargs={"a": 2}, hostname="w@h", retries=3, delivery_info={}
        )
        app.backend.store_result("good", {"b": 1, "a": ["é"]}, "SUCCESS", request=request_of_call)
        app.backend.mark_as_failure("bad", ValueError("no", 3), traceback="the traceback")
        app.GroupResult("old-group", [AsyncResult("good", app=app)]).save()
        app.backend.ResultSession().get_bind().dispose()
        yield url


@pytest.fixture
def store(place: str) -> Iterator[Store]:
    found = open_store(place)
    yield found
    found.close()


def adopt(store: Store, keep: timedelta | None = None) -> list[str]:
    assert isinstance(store, HasSchema)
    return list(store.schema.adopt(keep))


def test_celerys_tables_are_not_changed_without_adopt(place: str, store: Store) -> None:
    for options in (StoreOptions(), StoreOptions(create_tables=False)):
        strict = open_store(place, options)
        with pytest.raises(errors.ForeignTables, match="celery_taskmeta") as caught:
            strict.put(record())
        assert "schema adopt" in caught.value.remedy
        assert not caught.value.retryable
        with pytest.raises(errors.ForeignTables):
            strict.get("good")
        strict.close()
    assert isinstance(store, HasSchema)
    with pytest.raises(errors.ForeignTables):
        store.schema.create()
    assert store.schema.status().foreign
    app = celery_of(place)
    assert app.AsyncResult("good").get(timeout=30) == {"b": 1, "a": ["é"]}
    app.backend.ResultSession().get_bind().dispose()


def test_adopted_records_are_read(store: Store) -> None:
    names = adopt(store)
    assert len(names) == 2
    assert adopt(store) == names, "a second adopt changes nothing"
    good, bad = store.get("good"), store.get("bad")
    assert good is not None
    assert bad is not None
    assert (good.state, good.name, good.worker, good.retries) == ("SUCCESS", "shop.pack", "w@h", 3)
    assert good.result == json_payload({"b": 1, "a": ["é"]})
    assert good.args is not None
    assert good.args.body == b"[1]"
    assert good.expires_at is None
    assert good.done_at is not None
    assert abs(good.done_at - datetime.now(timezone.utc)) < timedelta(minutes=1)
    assert (bad.state, bad.traceback) == ("FAILURE", "the traceback")
    new = record(task_id="new")
    store.put(new)
    assert store.get_many(["good", "bad", "new", "none"]) == {"good": good, "bad": bad, "new": new}
    assert store.get_group("old-group") is not None
    assert store.get("none") is None


def test_open_store_reads_tables_adopted_by_another(place: str, store: Store) -> None:
    other = open_store(place)
    with pytest.raises(errors.ForeignTables):
        other.check()
    adopt(store)
    assert other.get("good") == store.get("good")
    other.close()


def test_new_record_goes_before_an_adopted_one(store: Store) -> None:
    adopt(store)
    ours = record(task_id="bad", result=json_payload("better"))
    assert store.put(ours).written
    assert store.get("bad") == ours
    assert store.get_many(["bad"]) == {"bad": ours}


def test_adopted_record_can_be_deleted(store: Store) -> None:
    adopt(store)
    store.put(record(task_id="new"))
    assert store.delete(["good", "new", "none"]) == 2
    assert store.get_many(["good", "new"]) == {}
    assert store.get("bad") is not None


def test_expired_results_of_adopted_tables_are_deleted(store: Store) -> None:
    adopt(store, keep=timedelta(days=30))
    good = store.get("good")
    assert good is not None
    assert good.expires_at is not None
    assert good.done_at is not None
    assert good.expires_at - good.done_at == timedelta(days=30)
    now = datetime.now(timezone.utc)
    counts = [able(store, Expiring).count_expired_adopted(now + timedelta(days=days)) for days in (29, 31)]
    assert counts == [0, 3]
    assert store.delete_expired(now + timedelta(days=29)) == 0
    assert store.delete_expired(now + timedelta(days=31)) == 3
    assert store.delete_expired(now + timedelta(days=31)) == 0
    assert store.get_many(["good", "bad"]) == {}
    assert store.get_group("old-group") is None


def test_adopted_results_without_expiry_are_kept(store: Store) -> None:
    adopt(store)
    assert store.delete_expired(datetime(9000, 1, 1, tzinfo=timezone.utc)) == 0
    assert store.get("good") is not None


def test_adopted_pickle_is_read_only_if_accepted(place: str, store: Store) -> None:
    old = celery_of(place, result_serializer="pickle", result_accept_content=["pickle"], accept_content=["pickle"])
    # Celery before 5.7 stored pickles with every serializer
    old.backend.store_result("pickled", {"a": (1, 2)}, "SUCCESS")
    old.backend.ResultSession().get_bind().dispose()
    adopt(store)
    for accepted, is_read in ((["json"], False), (["json", "pickle"], True)):
        app = Celery("new", broker="memory://", backend=f"rootcellar+{place}", set_as_current=False)
        app.conf.result_accept_content = accepted
        if is_read:
            assert app.AsyncResult("pickled").get(timeout=30) == {"a": (1, 2)}
        else:
            with pytest.raises(errors.ContentRefused, match="result_accept_content"):
                app.AsyncResult("pickled").get(timeout=30)
        assert app.AsyncResult("good").get(timeout=30) == {"b": 1, "a": ["é"]}
        app.backend.store.close()


def test_eight_processes_can_adopt_at_once(place: str, store: Store, processes: SyncedProcesses) -> None:  # noqa: F811
    answers = processes.run_alike(8, _adopt, place)
    assert len({tuple(answer) for answer in answers}) == 1
    assert store.get("good") is not None


def _adopt(url: str, _: int) -> list[str]:
    store = open_store(url)
    names = adopt(store)
    assert store.get("good") is not None
    store.close()
    return names


def test_adopt_can_be_undone_and_repeated(place: str, store: Store) -> None:
    assert isinstance(store, HasSchema)
    planned = store.schema.to_adopt()
    assert store.schema.status().foreign, "reading the status changes nothing"
    assert [new for _, new in planned] == adopt(store)
    assert store.schema.to_adopt() == []
    renamed, results = store.schema.to_unadopt()
    assert (sorted(renamed), results) == (sorted((new, old) for old, new in planned), 0)
    assert sorted(store.schema.unadopt()) == sorted(old for old, _ in planned)
    app = celery_of(place)
    assert app.AsyncResult("good").get(timeout=30) == {"b": 1, "a": ["é"]}
    assert app.GroupResult.restore("old-group") is not None
    app.backend.ResultSession().get_bind().dispose()
    with pytest.raises(errors.SchemaMissing, match="nothing was adopted"):
        store.schema.unadopt()
    assert store.schema.status().foreign
    adopt(store)
    store.close()
    assert store.get("good") is not None


def test_unadopt_keeps_results_that_were_stored_since(store: Store) -> None:
    assert isinstance(store, HasSchema)
    adopt(store)
    store.put(record(task_id="new"))
    with pytest.raises(errors.ResultsInTheWay, match="1 results"):
        store.schema.unadopt()
    assert store.get("new") is not None
    assert store.get("good") is not None
    store.schema.unadopt(drop_results=True)
    assert store.schema.status().foreign


def test_tables_are_not_dropped_while_a_hold_is_active(store: Store) -> None:
    assert isinstance(store, HasSchema)
    adopt(store)
    holding = store.ability(Holding)
    assert holding is not None
    hold = holding.place_hold("id:new", "audit", "ann", datetime.now(timezone.utc))
    store.put(record(task_id="new"))
    with pytest.raises(errors.ResultHeld, match="1 active hold"):
        store.schema.unadopt(drop_results=True)
    assert store.get("new") is not None
    assert store.get("good") is not None
    holding.release_hold(hold.id, "ann", datetime.now(timezone.utc))
    store.schema.unadopt(drop_results=True)
    assert store.schema.status().foreign


def test_held_result_in_the_table_of_celery_is_not_forgotten(store: Store) -> None:
    adopt(store)
    clock = Clock(datetime.now(timezone.utc), timezone.utc)
    hold = place_hold(store, "id:good state:succeeded", clock, reason="audit", by="ann")
    holds = Holds(store, codec_of({}))
    with pytest.raises(errors.ResultHeld, match=f"hold {hold.id}"):
        holds.forget(["good"])
    assert store.get("good") is not None
    assert holds.forget(["bad"]) == 1
    assert store.get("bad") is None


def test_unadopt_finishes_after_a_kill(place: str, store: Store) -> None:
    """Without a transaction for all steps (MySQL), Celery's table may already have its name again."""
    assert isinstance(store, HasSchema)
    adopt(store)
    run_sql = next(each for each in (SQLITE, POSTGRES, MYSQL) if place.startswith(each.name[:5])).run_sql
    assert run_sql is not None
    run_sql(place, "DROP TABLE celery_taskmeta")
    run_sql(place, "ALTER TABLE celery_taskmeta_before_rootcellar RENAME TO celery_taskmeta")
    _, results = store.schema.to_unadopt()
    assert results == 0
    store.schema.unadopt()
    app = celery_of(place)
    assert app.AsyncResult("good").get(timeout=30) == {"b": 1, "a": ["é"]}
    app.backend.ResultSession().get_bind().dispose()


def test_complete_tables_are_not_reported_damaged(store: Store) -> None:
    """The check searches every column of the schema."""
    assert isinstance(store, HasSchema)
    adopt(store)
    status = store.schema.status()
    assert (status.version, status.damaged, status.repairs) == (status.wanted, (), ())
