"""Tables of a migration: upgrades, rights, Celery's own tables beside them, and the cleanup of old burials."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from rootcellar import errors
from rootcellar.maintenance.cleanup import Cleanup, CleanupWork
from rootcellar.maintenance.spares import Spares
from rootcellar.payloads import codec_of
from rootcellar.stores import Store, open_store
from rootcellar.stores.base import HasSchema
from rootcellar.stores.mirroring import CopyReport, Held, Mirrored
from rootcellar.stores.shared_values import SharesValues
from rootcellar.stores.sql.store import SqlStore
from rootcellar.stores.streaming import Streamed
from rootcellar.testing.helpers import NOW, able, in_threads, json_payload, record
from rootcellar.testing.under_test import StoreUnderTest
from tests.commands import run_here
from tests.conformance.registered import MYSQL, POSTGRES, SQLITE
from tests.test_grants import Place
from tests.test_grants import place as place
from tests.test_store_adopted import adopt, celery_of

#: the versions of the tables before migrations
BEFORE = {"sqlite": 5, "mysql": 5, "postgres": 6}


@pytest.fixture(params=[SQLITE, MYSQL, POSTGRES], ids=str)
def under_test(request: pytest.FixtureRequest) -> StoreUnderTest:
    found: StoreUnderTest = request.param
    return found


@pytest.fixture
def url(under_test: StoreUnderTest, request: pytest.FixtureRequest) -> Iterator[str]:
    with under_test.new_place(request) as found:
        yield found


def must_be_able(store: Store) -> None:
    if store.ability(Mirrored) is None:
        pytest.skip("this store cannot be part of a migration")


def test_tables_of_the_release_before_are_upgraded(under_test: StoreUnderTest, url: str) -> None:
    one = record()
    with closing(open_store(url)) as store:
        assert isinstance(store, SqlStore)
        must_be_able(store)
        store.schema._migrations = store.schema._migrations[: BEFORE[under_test.name]]
        store.schema.create()
        store.put(one)
    upgraded = run_here("schema", "upgrade", "-b", url)
    assert (upgraded.status, upgraded.err) == (0, "")
    assert f"Upgraded from version {BEFORE[under_test.name]}." in upgraded.out
    with closing(open_store(url)) as store:
        assert isinstance(store, SqlStore)
        assert store.schema.status().is_complete
        assert able(store, Mirrored).bury([one.task_id]) == {one.task_id: one}
        assert able(store, SharesValues).share("migration/state", "{}") == 1


def test_missing_table_of_burials_is_found(under_test: StoreUnderTest, url: str) -> None:
    assert under_test.run_sql is not None
    with closing(open_store(url)) as store:
        assert isinstance(store, SqlStore)
        must_be_able(store)
        store.check()
        under_test.run_sql(url, "DROP TABLE celery_taskmeta_buried")
        (damaged,) = store.schema.status().damaged
        assert "celery_taskmeta_buried" in damaged
        assert not store.schema.status().is_complete
        with pytest.raises(errors.SchemaMissing):
            able(store, Mirrored).mirror(record())


def test_rights_of_a_worker_let_it_take_part_in_a_migration(place: Place) -> None:
    place.granted("admin")
    with place.as_user("admin") as store:
        store.schema.create()  # type: ignore[attr-defined]
        must_be_able(store)
    place.granted("worker")
    place.granted("reader")
    one = record()
    with place.as_user("worker") as store:
        mirrored, values, streamed = able(store, Mirrored), able(store, SharesValues), able(store, Streamed)
        assert mirrored.mirror(one) == Held(one)
        assert mirrored.settle(one) == Held(one)
        assert mirrored.copy([one]) == CopyReport(kept=frozenset([one.task_id]))
        assert mirrored.bury([one.task_id]) == {one.task_id: one}
        assert mirrored.mirror(one).buried
        assert mirrored.bury_same([one]) == 0
        assert values.share("migration/process/a/1", "{}") == 1
        assert values.share("migration/process/a/1", "{}", if_version=1) == 2
        assert values.unshare(["migration/process/a/1"]) == 1
        assert mirrored.forget_burials(None) == 1
        assert streamed.stream() == ([], None)
        assert streamed.open_chords() == 0
        assert streamed.count_roughly() == 0
        values.share("migration/state", "{}")
    with place.as_user("reader") as store:
        assert able(store, SharesValues).shared("migration/").keys() == {"migration/state"}
        assert able(store, Mirrored).burials() == ([], None)
        for forbidden in (
            lambda: able(store, Mirrored).mirror(one),
            lambda: able(store, Mirrored).settle(one),
            lambda: able(store, Mirrored).copy([one]),
            lambda: able(store, Mirrored).bury([one.task_id]),
            lambda: able(store, SharesValues).share("migration/state", "{}"),
        ):
            with pytest.raises(errors.PermissionDenied):
                forbidden()


def test_right_that_is_taken_away_during_a_migration_is_an_outage(place: Place) -> None:
    place.granted("admin")
    with place.as_user("admin") as store:
        store.schema.create()  # type: ignore[attr-defined]
    place.granted("worker")
    one = record()
    with place.as_user("worker") as store:
        mirrored = able(store, Mirrored)
        mirrored.mirror(one)
        mirrored.settle(one)
        mirrored.copy([one])
        mirrored.bury(["other"])
        place.run("REVOKE SELECT ON celery_taskmeta_buried FROM worker_1")
        for call in (
            lambda: mirrored.mirror(one),
            lambda: mirrored.settle(one),
            lambda: mirrored.copy([one]),
            lambda: mirrored.bury([one.task_id]),
        ):
            with pytest.raises(errors.PermissionDenied) as caught:
                call()
            assert caught.value.retryable


@pytest.fixture
def adopted(url: str) -> Iterator[Store]:
    """A store beside whose tables are those of Celery's own backend, with results and groups."""
    app = celery_of(url)
    for number in range(25):
        app.backend.store_result(f"old-{number:02}", number, "SUCCESS")
    app.backend.mark_as_failure("old-bad", ValueError("no"), traceback="the traceback")
    for number in range(5):
        app.GroupResult(f"group-{number}", [app.AsyncResult("old-00")]).save()
    app.backend.ResultSession().get_bind().dispose()
    store = open_store(url)
    must_be_able(store)
    assert isinstance(store, HasSchema)
    adopt(store)
    yield store
    store.close()


def walk(call: Callable[..., tuple[Any, str | None]]) -> list[Any]:
    found: list[Any] = []
    cursor = None
    while True:
        page, cursor = call(cursor, 4)
        found += page
        if cursor is None:
            return found


def test_walk_returns_what_celery_stored(adopted: Store) -> None:
    ours = record(task_id="old-03", result=json_payload("stored again"))
    other = record()
    adopted.put(ours)
    adopted.put(other)
    found = walk(able(adopted, Streamed).stream)
    ids = {f"old-{number:02}" for number in range(25)} | {"old-bad", other.task_id}
    assert {one.task_id: one for one in found} == adopted.get_many(ids)
    assert {one.result for one in found if one.task_id == "old-03"} == {ours.result}
    groups = walk(able(adopted, Streamed).stream_groups)
    assert {group.group_id: group for group in groups} == {
        f"group-{number}": adopted.get_group(f"group-{number}") for number in range(5)
    }
    assert 20 <= able(adopted, Streamed).count_roughly() <= 40


def test_what_celery_stored_is_buried_and_not_overwritten(adopted: Store) -> None:
    mirrored = able(adopted, Mirrored)
    good, bad = adopted.get("old-00"), adopted.get("old-bad")
    assert good is not None
    assert bad is not None
    theirs = replace(good, result=json_payload("theirs"), done_at=NOW)
    better = replace(bad, state="SUCCESS", result=json_payload("better"), traceback=None, done_at=NOW)
    report = mirrored.copy([theirs, better])
    assert report == CopyReport(written=frozenset(["old-bad"]), kept=frozenset(["old-00"]))
    assert adopted.get_many(["old-00", "old-bad"]) == {"old-00": good, "old-bad": better}
    assert mirrored.bury(["old-00"]) == {"old-00": good}
    assert adopted.get("old-00") is None
    assert mirrored.mirror(good).buried
    other = adopted.get("old-01")
    assert other is not None
    assert mirrored.bury_same([other]) == 1
    assert adopted.get("old-01") is None


def clean(store: Store) -> None:
    Cleanup(CleanupWork(store=store, spares=Spares(store, codec_of({})))).clean()


def test_cleanup_deletes_old_burials_unless_a_migration_goes_on(under_test: StoreUnderTest, url: str) -> None:
    assert under_test.run_sql is not None
    with closing(open_store(url)) as store:
        must_be_able(store)
        mirrored, values = able(store, Mirrored), able(store, SharesValues)
        mirrored.bury(["old", "young"])
        under_test.run_sql(url, "UPDATE celery_taskmeta_buried SET buried_at = '2001-01-01' WHERE task_id = 'old';")
        values.share("migration/state", "{}")
        clean(store)
        assert mirrored.burials_of(["old", "young"]).keys() == {"old", "young"}
        values.unshare(["migration/state"])
        values.share("migration/process/a/1", "{}")
        clean(store)
        assert mirrored.burials_of(["old", "young"]).keys() == {"young"}


def test_deadlocks_of_copies_and_burials_are_retried(url: str, under_test: StoreUnderTest) -> None:
    """Two copies and two burials of many tasks, in other orders than those of the ids."""
    with closing(open_store(url)) as store:
        must_be_able(store)
        records = [record(task_id=f"task-{number:03}") for number in range(300)]

        def work(number: int) -> None:
            mirrored = able(store, Mirrored)
            order = records if number % 2 else records[::-1]
            for start in range(0, 300, 50):
                some = order[start : start + 50]
                if number < 2:
                    mirrored.copy(some)
                else:
                    mirrored.bury([one.task_id for one in some], {one.task_id: [one] for one in some})

        in_threads(4, work)
        assert store.get_many(one.task_id for one in records) == {}
