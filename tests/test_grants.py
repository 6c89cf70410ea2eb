"""``rootcellar schema grants``: its rights let a user do its work, and nothing more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from rootcellar import errors
from rootcellar.history.holds import Holds
from rootcellar.payloads import codec_of
from rootcellar.records import GroupRecord
from rootcellar.stores import Store, StoreOptions, open_store
from rootcellar.stores.base import Queryable, TaskQuery
from rootcellar.stores.holding import Holding
from rootcellar.testing.helpers import NOW, begun, json_payload, part, record
from rootcellar.waiting.blocking import Waiter
from tests.commands import assert_one_line, run_here
from tests.mariadb_server import MariaDBServer
from tests.servers import PostgresServer

ROLES = ("admin", "worker", "reader", "maintainer")


@dataclass(frozen=True)
class Place:
    """A database without tables, and users without rights."""

    url: str
    run: Callable[[str], Any]

    def granted(self, role: str, *options: str) -> None:
        printed = run_here("schema", "grants", f"{role}_1", "--for", role, "-b", self.url, *options)
        assert printed.status == 0, printed
        self.run(printed.out)

    @contextmanager
    def as_user(self, role: str, **options: Any) -> Iterator[Store]:
        scheme, _, rest = self.url.partition("://")
        with closing(open_store(f"{scheme}://{role}_1:pw@{rest.rpartition('@')[2]}", StoreOptions(**options))) as store:
            yield store


@pytest.fixture(params=["postgres", "mysql"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    if request.param == "mysql":
        mysql: MariaDBServer = request.getfixturevalue("mysql_server")
        url = mysql.create_database()
        name = url.rpartition("/")[2]
        mysql.execute("".join(f"CREATE OR REPLACE USER {role}_1@'%' IDENTIFIED BY 'pw';" for role in ROLES))
        yield Place(url, lambda script: mysql.execute(script, name))
        mysql.drop_databases([name])
        mysql.execute("".join(f"DROP USER {role}_1;" for role in ROLES))
        return
    postgres: PostgresServer = request.getfixturevalue("postgres_server")
    url = postgres.create_database()

    def run(script: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(script.encode())

    for role in ROLES:
        run(f"CREATE ROLE {role}_1 LOGIN PASSWORD 'pw'")
    yield Place(url, run)
    run("".join(f"DROP OWNED BY {role}_1 CASCADE; DROP ROLE {role}_1;" for role in ROLES))
    postgres.drop_database(url)


def work_as_a_worker(store: Store) -> None:
    one = record()
    group = begun(store, 1)
    assert store.put(one, part(group, one.task_id)).written
    assert store.get_many([one.task_id]) == {one.task_id: one}
    store.size_chord(group, 1, relative=True, key="more")
    assert len(store.chord_parts(group)) == 1
    store.count_part(part(group, index=1))
    store.claim_chord(group, "me")
    store.finish_chord(group)
    saved = GroupRecord(group_id=group, result=json_payload(1), done_at=NOW)
    store.put_group(saved)
    assert store.get_group(group) == saved
    store.delete_group(group)
    waiter = Waiter(store)
    assert list(waiter.wait_for([one.task_id], timeout=30)) == [one]
    waiter.close()
    store.put(record(expires_at=NOW))
    store.delete_expired(NOW.replace(year=NOW.year + 1))
    assert store.delete([one.task_id]) == 1


@pytest.mark.parametrize(
    "options", [{}, {"task_table": "jobs of the_day", "group_table": "groups"}], ids=["usual", "odd"]
)
def test_role_can_do_its_work_and_no_more(place: Place, options: dict[str, str]) -> None:
    words = [word for key, value in options.items() for word in ("--" + key.replace("_", "-"), value)]
    with place.as_user("worker", **options) as store, pytest.raises(errors.StoreError):
        store.put(record())  # no rights, and no tables

    place.granted("admin", *words)
    with place.as_user("admin", **options) as store:
        store.schema.create()  # type: ignore[attr-defined]
        status = store.schema.status()  # type: ignore[attr-defined]
        assert status.version == status.wanted
    place.granted("worker", *words)
    place.granted("reader", *words)

    with place.as_user("worker", **options) as store:
        work_as_a_worker(store)
        kept = record(expires_at=NOW - timedelta(days=1))
        store.put(kept)
        assert store.schema.status() == status  # type: ignore[attr-defined]
    with place.as_user("worker", task_table="others", group_table="others_groups") as store:
        with pytest.raises(errors.PermissionDenied) as caught:
            store.put(record())  # creates tables
        assert caught.value.remedy

    with place.as_user("reader", **options) as store:
        assert store.get(kept.task_id) == kept
        assert store.get_many([kept.task_id]) == {kept.task_id: kept}
        assert [one.task_id for one in store.scan()] == [kept.task_id]
        assert isinstance(store, Queryable)
        assert list(store.query(TaskQuery())) == [kept]
        assert store.get_group("x") is None
        assert store.schema.status() == status  # type: ignore[attr-defined]
        for forbidden in (
            lambda: store.put(record()),
            lambda: store.delete([kept.task_id]),
            lambda: store.put_group(GroupRecord(group_id="g", result=json_payload(1), done_at=NOW)),
            lambda: store.count_part(part("g")),
            lambda: store.delete_expired(NOW),
        ):
            with pytest.raises(errors.PermissionDenied):
                forbidden()
        assert store.get(kept.task_id) == kept


def test_worker_obeys_holds_and_cannot_place_or_release_one(place: Place) -> None:
    place.granted("admin")
    with place.as_user("admin") as store:
        store.schema.create()  # type: ignore[attr-defined]
        hold = holding_of(store).place_hold("id:a", "audit", "ann", NOW)
    place.granted("worker")
    place.granted("reader")
    for role in ("worker", "reader"):
        with place.as_user(role) as store:
            assert holding_of(store).holds() == [hold]
            with pytest.raises(errors.PermissionDenied):
                holding_of(store).place_hold("id:b", "audit", "eve", NOW)
            with pytest.raises(errors.PermissionDenied):
                holding_of(store).release_hold(hold.id, "eve", NOW)
    with place.as_user("worker") as store:
        one = record(task_id="a")
        store.put(one)
        with pytest.raises(errors.ResultHeld):
            Holds(store, codec_of({})).forget(["a"])
        assert store.get("a") == one
    place.granted("maintainer")
    for role in ("maintainer", "admin"):
        with place.as_user(role) as store:
            placed = holding_of(store).place_hold("id:b", "audit", role, NOW)
            assert holding_of(store).release_hold(placed.id, role, NOW) is not None


def holding_of(store: Store) -> Holding:
    found = store.ability(Holding)
    assert found is not None
    return found


def test_grants_are_printed_without_a_connection_and_quote_names() -> None:
    printed = run_here(
        "schema", "grants", 'o"dd', "--for", "reader", "-b", "postgresql://nowhere/db", "--schema", "Jobs"
    )
    assert 'GRANT USAGE ON SCHEMA "Jobs" TO "o""dd";' in printed.out
    printed = run_here("schema", "grants", "o'dd@10.%", "--for", "admin", "-b", "mysql://nowhere/my_db")
    assert "ON `my\\_db`.* TO 'o\\'dd'@'10.%';" in printed.out


def test_sqlite_file_has_no_grants() -> None:
    assert_one_line(run_here("schema", "grants", "me", "-b", "sqlite:///x.sqlite3"), "no users")
