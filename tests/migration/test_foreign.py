"""Results of Celery's own backends are copied, and go back, where Celery's own client reads them."""

from __future__ import annotations

import json
import os
import pickle
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from celery.app.task import Context
from celery.result import AsyncResult

from rootcellar.migration.endpoint import Spec
from rootcellar.migration.endpoints import open_endpoint
from rootcellar.migration.foreign.celery_tables import CeleryTables
from rootcellar.migration.foreign.database import Row, Session
from rootcellar.migration.foreign.tables import Table
from rootcellar.payloads import Codec
from rootcellar.records import NO_DATE, GroupRecord, Payload, TaskRecord
from rootcellar.stores import Store, open_store
from rootcellar.testing.under_test import StoreUnderTest
from tests.commands import run_here
from tests.conformance.registered import MYSQL, POSTGRES, SQLITE
from tests.helpers import new_id, now, record
from tests.migration.test_verify import whole
from tests.servers import MongoServer, RedisServer

CODEC = Codec(accept={"application/json", "application/x-rootcellar-json"})
VALUES: dict[str, Any] = {"sum": 5, "text": "ü", "deep": {"a": [1, None, True]}, "none": None}


class Refused(Exception):
    """An exception of an application."""


def copied(*args: str, status: int = 0) -> dict[str, Any]:
    ended = run_here("copy", *args, "--json")
    assert ended.status == status, ended.err
    found: dict[str, Any] = json.loads(ended.out)
    return found


def verified(*args: str, status: int = 0) -> dict[str, Any]:
    ended = run_here("verify", *args, "--json")
    assert ended.status == status, (ended.out, ended.err)
    found: dict[str, Any] = json.loads(ended.out)
    return found


def stock(backend: str, **conf: Any) -> Celery:
    """Return an app with Celery's own backend."""
    app = Celery("stock", broker="memory://", backend=backend, set_as_current=False)
    app.conf.update(result_extended=True, **conf)
    return app


def fill(app: Celery) -> None:
    """Store results as a stock worker does: successes, failures of two kinds, a running task, and a group."""
    request = Context(
        id="sum", task="shop.add", args=[2, 3], kwargs={"a": 1}, hostname="w@h", retries=2, delivery_info={}
    )
    for task_id, value in VALUES.items():
        app.backend.store_result(task_id, value, "SUCCESS", request=request if task_id == "sum" else None)
    app.backend.mark_as_failure("failed", ValueError("no", 3), traceback="the traceback")
    app.backend.mark_as_failure("refused", Refused("card"), traceback="the traceback")
    app.backend.store_result("running", {"pid": 1}, "STARTED")
    app.GroupResult("group", [AsyncResult("sum", app=app), AsyncResult("text", app=app)]).save()


def let_go(app: Celery) -> None:
    """Close the connections of a client on Redis, which its results would open again when they are collected."""
    app.backend.result_consumer.stop()
    app.backend.result_consumer._pubsub = None
    app.backend.client.close()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Store]:
    store = open_store(f"sqlite:///{tmp_path}/target.sqlite3")
    yield store
    store.close()


def check_filled(target: Store) -> None:
    """Check that a store has everything of :func:`fill`."""
    found = target.get_many([*VALUES, "failed", "refused", "running"])
    for task_id, value in VALUES.items():
        result = found[task_id].result
        assert result is not None
        assert CODEC.decode(result, task_id=task_id) == value
        assert found[task_id].state == "SUCCESS"
        assert abs((found[task_id].done_at or NO_DATE) - now()) < timedelta(minutes=1)
    one = found["sum"]
    assert (one.name, one.worker, one.retries) == ("shop.add", "w@h", 2)
    assert one.args is not None
    assert json.loads(one.args.body) == [2, 3]
    for task_id, kind in (("failed", "ValueError"), ("refused", "Refused")):
        result = found[task_id].result
        assert result is not None
        described = CODEC.decode(result, task_id=task_id)
        assert described["exc_type"] == kind
        assert (found[task_id].state, found[task_id].traceback) == ("FAILURE", "the traceback")
        assert [*described["exc_message"]][:1] == ["no" if kind == "ValueError" else "card"]
    assert (found["running"].state, found["running"].done_at) == ("STARTED", None)
    group = target.get_group("group")
    assert group is not None
    assert [member[0][0] for member in json.loads(group.result.body)[1]] == ["sum", "text"]


# -- Celery's Redis backend


@pytest.mark.parametrize("serializer", ["json", "yaml", "msgpack", "pickle"])
def test_results_of_celerys_redis_are_copied_with_every_serializer(
    serializer: str, redis_url: str, redis_server: RedisServer, target: Store
) -> None:
    url = redis_server.database_url(11)
    with closing(redis.Redis.from_url(url)) as client:
        client.flushdb()
    app = stock(url, result_serializer=serializer, accept_content=["json", "yaml", "msgpack", "pickle"])
    fill(app)
    if serializer == "pickle":
        refused = copied(f"celery+{url}", target.url, status=1)
        assert refused["copied"] == 0
        assert "--allow-pickle" in refused["problems"][0]
        assert refused["groups_unreadable"] == 1
    copied(f"celery+{url}", target.url, "--allow-pickle")
    check_filled(target)
    left = target.get("sum")
    assert left is not None
    assert left.expires_at is not None
    assert abs(left.expires_at - now() - timedelta(days=1)) < timedelta(minutes=1)
    found = verified(f"celery+{url}", target.url, "--allow-pickle")
    assert (found["source_results"], found["left"]) == (7, 0)
    let_go(app)


def test_pickle_of_another_program_is_not_run(redis_server: RedisServer, target: Store, tmp_path: Path) -> None:
    url = redis_server.database_url(11)
    trap = tmp_path / "trap"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(trap),)

    with closing(redis.Redis.from_url(url)) as client:
        client.flushdb()
        meta = {"status": "SUCCESS", "result": Trap(), "traceback": None, "children": []}
        client.set("celery-task-meta-trap", pickle.dumps(meta))
        client.set("celery-task-meta-set", pickle.dumps({**meta, "result": {Decimal("1.10")}}))
    found = copied(f"celery+{url}", target.url, "--allow-pickle", status=1)
    assert (found["copied"], found["unreadable"]) == (1, 1)
    assert not trap.exists()
    one = target.get("set")
    assert one is not None
    assert one.result is not None
    assert CODEC.decode(one.result, task_id="set") == {Decimal("1.10")}


def examples() -> list[TaskRecord]:
    """Return records with all fields, and with values of all kinds."""
    typed = CODEC.encode({"price": Decimal("1.10"), "at": datetime(2026, 1, 2, tzinfo=timezone.utc)}, task_id="typed")
    packed = Codec(compressor=None, serializer="rootcellar-json").encode(Decimal("1.10"), task_id="decimal")
    failure = {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"}
    return [
        whole("everything", value={"a": 1}, done_at=now(), expires_at=now() + timedelta(days=3)),
        record("typed", result=typed),
        record("decimal", result=packed),
        record("failed", failure, "FAILURE", traceback="Traceback …", done_at=now()),
        record("undated", done_at=NO_DATE),
        record("running", state="STARTED", result=None, started_at=now()),
    ]


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Store]:
    store = open_store(f"sqlite:///{tmp_path}/source.sqlite3")
    for one in examples():
        store.put(one)
    members = [[["everything", None], None], [["typed", None], None]]
    group = GroupRecord(
        group_id="group", result=Payload(json.dumps([["group", None], members]).encode()), done_at=now()
    )
    store.put_group(group)
    yield store
    store.close()


def check_read(app: Celery) -> None:
    """Check that Celery's own client reads the examples."""
    assert app.AsyncResult("everything").get(timeout=5) == {"a": 1}
    assert app.AsyncResult("typed").get(timeout=5)["price"] == Decimal("1.10")
    assert app.AsyncResult("decimal").get(timeout=5) == Decimal("1.10")
    with pytest.raises(ValueError, match="no"):
        app.AsyncResult("failed").get(timeout=5)
    assert app.AsyncResult("failed").traceback == "Traceback …"
    assert app.AsyncResult("running").state == "STARTED"
    group = app.GroupResult.restore("group")
    assert group is not None
    assert [child.id for child in group] == ["everything", "typed"]


def test_results_go_back_to_celerys_redis(source: Store, redis_server: RedisServer) -> None:
    url = redis_server.database_url(11)
    with closing(redis.Redis.from_url(url)) as client:
        client.flushdb()
        found = copied(source.url, f"celery+{url}")
        assert (found["copied"], found["groups_copied"], found["lost"]) == (6, 1, {})
        assert 250_000 < client.ttl("celery-task-meta-everything") <= 259_200
    app = stock(url)
    check_read(app)
    assert verified(source.url, f"celery+{url}")["left"] == 0
    let_go(app)


def test_results_go_to_celerys_mongodb_and_come_back(source: Store, mongo_server: MongoServer, target: Store) -> None:
    url = f"{mongo_server.url}/{new_id()[:8]}"
    copied(source.url, f"celery+{url}")
    app = stock(url)
    check_read(app)
    assert verified(source.url, f"celery+{url}")["left"] == 0
    fill(stock(url, result_serializer="pickle", accept_content=["pickle", "json"]))
    assert copied(f"celery+{url}", target.url, status=1)["unreadable"] > 0
    copied(f"celery+{url}", target.url, "--allow-pickle")
    one = target.get("everything")
    assert one is not None
    assert one.result is not None
    assert json.loads(one.result.body) == {"a": 1}
    check_filled(target)
    assert verified(f"celery+{url}", target.url, "--allow-pickle")["left"] == 0


def test_yaml_in_celerys_mongodb_is_read(mongo_server: MongoServer, target: Store) -> None:
    url = f"{mongo_server.url}/{new_id()[:8]}"
    fill(stock(url, result_serializer="yaml", accept_content=["yaml"]))
    copied(f"celery+{url}", target.url)
    check_filled(target)


def test_packed_number_is_not_read_as_a_letter(tmp_path: Path, target: Store) -> None:
    # 65 in MessagePack is the letter A, and YAML would read that
    url = f"db+sqlite:///{tmp_path}/packed.sqlite3"
    app = stock(url, result_serializer="msgpack", accept_content=["msgpack"])
    app.backend.store_result("number", 65, "SUCCESS")
    dispose(app)
    found = copied(url, target.url, status=1)
    assert (found["copied"], found["unreadable"]) == (0, 1)
    assert "?serializer=" in found["problems"][0]
    assert copied(f"{url}?serializer=msgpack", target.url)["copied"] == 1


def test_filter_chooses_among_results_of_another_system(tmp_path: Path, target: Store) -> None:
    app = stock(f"db+sqlite:///{tmp_path}/celery.sqlite3")
    fill(app)
    dispose(app)
    found = copied(f"db+sqlite:///{tmp_path}/celery.sqlite3", target.url, "task:shop.* result:5")
    assert (found["copied"], found["filtered_out"]) == (1, 6)
    assert target.get("sum") is not None


# -- Celery's database backend


@pytest.fixture(params=[SQLITE, POSTGRES, MYSQL], ids=str)
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of an empty database, as SQLAlchemy reads it."""
    under_test: StoreUnderTest = request.param
    with under_test.new_place(request) as url:
        yield url.replace("postgresql:", "postgresql+psycopg:").replace("mysql:", "mysql+pymysql:")


def dispose(app: Celery) -> None:
    app.backend.ResultSession().get_bind().dispose()


def test_results_of_celerys_tables_are_copied(database: str, target: Store) -> None:
    app = stock(f"db+{database}")
    fill(app)
    dispose(app)
    found = copied(f"db+{database}", target.url, "--keep", "30d")
    assert (found["copied"], found["groups_copied"]) == (7, 1)
    check_filled(target)
    one = target.get("sum")
    assert one is not None
    assert one.done_at is not None
    assert one.expires_at == one.done_at + timedelta(days=30)
    assert verified(f"db+{database}", target.url)["left"] == 0


def test_results_go_back_to_celerys_tables(database: str, source: Store) -> None:
    found = copied(source.url, f"db+{database}")
    assert (found["copied"], found["groups_copied"]) == (6, 1)
    assert found["lost"]["expires_at"] == 1
    assert found["lost"]["root_id"] == 1
    app = stock(f"db+{database}")
    check_read(app)
    # a worker goes on in the same tables
    app.backend.store_result("later", 1, "SUCCESS")
    assert app.AsyncResult("later").get(timeout=5) == 1
    dispose(app)
    assert verified(source.url, f"db+{database}", "--allow-more")["left"] == 0
    # a second copy changes nothing
    assert copied(source.url, f"db+{database}")["copied"] == 0


def test_difference_in_celerys_tables_is_found_and_repaired(tmp_path: Path, source: Store) -> None:
    url = f"db+sqlite:///{tmp_path}/celery.sqlite3"
    copied(source.url, url)
    with closing(sqlite3.connect(tmp_path / "celery.sqlite3")) as connection, connection:
        connection.execute("UPDATE celery_taskmeta SET result = '7' WHERE task_id = 'typed'")
        connection.execute("DELETE FROM celery_taskmeta WHERE task_id = 'undated'")
    found = verified(source.url, url, status=1)["differences"]
    assert {kind: one["ids"] for kind, one in found.items()} == {"missing": ["undated"], "value": ["typed"]}
    assert verified(source.url, url, "--repair")["left"] == 0
    assert verified(source.url, url)["left"] == 0


def test_older_layout_of_celerys_tables_is_read(tmp_path: Path, target: Store) -> None:
    # Celery 5.0 to 5.6: every result is a pickle, and there are fewer columns
    path = tmp_path / "old.sqlite3"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "CREATE TABLE celery_taskmeta (id INTEGER PRIMARY KEY, task_id VARCHAR(155) UNIQUE, status VARCHAR(50),"
            " result BLOB, date_done DATETIME, traceback TEXT)"
        )
        rows = {
            "old": ("SUCCESS", {"total": 12}),
            "error": ("FAILURE", {"exc_type": "KeyError", "exc_message": ["x"], "exc_module": "builtins"}),
            "pickled-error": ("FAILURE", Refused("card")),
            # the date is that of the last change
            "running": ("STARTED", {"pid": 1}),
        }
        for task_id, (state, value) in rows.items():
            connection.execute(
                "INSERT INTO celery_taskmeta (task_id, status, result, date_done) VALUES (?, ?, ?, ?)",
                (task_id, state, pickle.dumps(value), "2026-03-01 10:00:00.000000"),
            )
        connection.execute(
            "CREATE TABLE celery_tasksetmeta (id INTEGER PRIMARY KEY, taskset_id VARCHAR(155) UNIQUE, result BLOB,"
            " date_done DATETIME)"
        )
        app = Celery("old", backend="cache+memory://", set_as_current=False)
        group = app.GroupResult("group", [AsyncResult("old", app=app), app.AsyncResult("error")])
        row = ("group", pickle.dumps(group), "2026-03-01 10:00:00.000000")
        connection.execute("INSERT INTO celery_tasksetmeta (taskset_id, result, date_done) VALUES (?, ?, ?)", row)
    url = f"db+sqlite:///{path}"
    assert copied(url, target.url, status=1)["unreadable"] == 4
    assert copied(url, target.url, "--allow-pickle")["copied"] == 4
    found = target.get_many(rows)
    assert {task_id: CODEC.decode(one.result, task_id=task_id) for task_id, one in found.items() if one.result} == {
        "old": {"total": 12},
        "error": rows["error"][1],
        "pickled-error": {"exc_type": "Refused", "exc_message": ["card"], "exc_module": __name__},
        "running": {"pid": 1},
    }
    assert found["running"].done_at is None
    saved = target.get_group("group")
    assert saved is not None
    assert json.loads(saved.result.body) == [["group", None], [[["old", None], None], [["error", None], None]]]
    assert found["old"].done_at == datetime(2026, 3, 1, 10, tzinfo=timezone.utc)
    ended = run_here("copy", target.url, url)
    assert ended.status == 1
    assert "no column children" in ended.err


def test_results_with_a_serializer_that_the_url_names_are_read(tmp_path: Path, target: Store) -> None:
    url = f"db+sqlite:///{tmp_path}/packed.sqlite3"
    app = stock(url, result_serializer="msgpack", accept_content=["msgpack"])
    # MessagePack's 50 is JSON's 2
    app.backend.store_result("fifty", 50, "SUCCESS")
    dispose(app)
    assert copied(f"{url}?serializer=msgpack", target.url)["copied"] == 1
    one = target.get("fifty")
    assert one is not None
    assert one.result is not None
    assert CODEC.decode(one.result, task_id="fifty") == 50
    ended = run_here("copy", f"{url}?serializer=marshal", target.url)
    assert ended.status == 1
    assert "json, pickle, yaml or msgpack" in ended.err


@pytest.mark.parametrize("database", [POSTGRES, MYSQL], ids=str, indirect=True)
def test_task_stored_by_another_process_meanwhile_is_not_overwritten(database: str, source: Store) -> None:
    # Celery's worker stores a result between the search and the insertion of a copy
    copied(source.url, f"db+{database}", "id:running")
    end = open_endpoint(Spec(f"db+{database}"))
    tables = end.target
    assert isinstance(tables, CeleryTables)
    late = record("late", {"by": "copy"}, done_at=now() - timedelta(days=1))
    app = stock(f"db+{database}")
    inserted, calls = Table.insert, []

    def insert_late(table: Table, session: Session, rows: Sequence[Row], fixed: Mapping[str, str]) -> int:
        calls.append(len(rows))
        if len(calls) == 1:
            app.backend.store_result("late", "by the worker", "SUCCESS")
        return inserted(table, session, rows, fixed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Table, "insert", insert_late)
        report = tables.copy([late], newer_wins=True)
    assert (report.written, report.kept) == (frozenset(), frozenset({"late"}))
    assert calls == [1, 0]
    assert app.AsyncResult("late").get(timeout=5) == "by the worker"
    dispose(app)
    end.close()
