"""docs/coming-from.md and docs/leaving.md run as printed, with stock workers; and results of django-celery-results."""

from __future__ import annotations

import json
import pickle
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
from celery import Celery

from rootcellar.stores import Store, open_store
from rootcellar.testing.under_test import StoreUnderTest
from tests import test_docs
from tests.commands import run_here
from tests.conformance.registered import MYSQL, POSTGRES, SQLITE
from tests.helpers import new_id
from tests.migration.django_tables import DONE, make_tables
from tests.migration.test_foreign import copied, examples, verified
from tests.servers import MongoServer, RedisServer
from tests.test_docs import EXAMPLE_DATABASE, Page, play


def new_redis(server: RedisServer, first: int) -> dict[str, str]:
    """Return the example's URLs, and those of two empty databases of the test's server."""
    urls = {f"redis://localhost:6379/{n}": server.database_url(first + n) for n in range(2)}
    for url in urls.values():
        with closing(redis.Redis.from_url(url)) as client:
            client.flushdb()
    return urls


@pytest.fixture
def commands_run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the commands of a page run in this process, which takes a tenth of the time of another one."""
    run = test_docs.run

    def run_faster(command: str, folder: Path, status: int = 0, timeout: float = 60) -> str:
        name, *args = shlex.split(command)
        if name != "rootcellar":
            return run(command, folder, status, timeout)
        ended = run_here(*args)
        assert ended.status == status, f"{command}\n{ended.out}\n{ended.err}"
        return ended.out

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(test_docs, "run", run_faster)


@pytest.mark.usefixtures("commands_run_here")
@pytest.mark.timeout(300)  # it starts about ten processes, one after the other
def test_stock_projects_bring_their_results_along(
    tmp_path: Path, postgres_url: str, redis_server: RedisServer, mongo_server: MongoServer
) -> None:
    mongo_url = f"{mongo_server.url}/{new_id()[:8]}"
    app = Celery("stock", backend=mongo_url, set_as_current=False)
    app.backend.store_result("from-mongodb", {"total": 12}, "SUCCESS")
    make_tables(f"sqlite:///{tmp_path}/db.sqlite3")
    make_pickles(tmp_path / "pickled.sqlite3")
    urls = {
        EXAMPLE_DATABASE: postgres_url,
        "mongodb://localhost:27017/celery": mongo_url,
        **new_redis(redis_server, 9_230),
    }
    play(Page("docs/coming-from.md", urls), tmp_path)
    with closing(open_store(postgres_url)) as store:
        assert {"sum", "failed", "sum-0", "sum-1", "sum-2"} == store.get_many(
            ["sum", "failed", "sum-0", "sum-1", "sum-2"]
        ).keys()
        check_from_django(store)
    with closing(open_store(f"sqlite:///{tmp_path}/from-mongodb.sqlite3")) as store:
        assert store.get("from-mongodb") is not None


def make_pickles(path: Path) -> None:
    """Make the table of Celery 5.0 to 5.6 with two results."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "CREATE TABLE celery_taskmeta (id INTEGER PRIMARY KEY, task_id VARCHAR(155) UNIQUE, status VARCHAR(50),"
            " result BLOB, date_done DATETIME, traceback TEXT)"
        )
        rows = [(task_id, pickle.dumps({"total": 12})) for task_id in ("one", "two")]
        connection.executemany(
            "INSERT INTO celery_taskmeta (task_id, status, result, date_done)"
            " VALUES (?, 'SUCCESS', ?, '2026-03-01 10:00:00')",
            rows,
        )


@pytest.mark.usefixtures("commands_run_here")
@pytest.mark.timeout(300)  # it starts about eight processes, one after the other
def test_project_leaves_to_celerys_own_backends(tmp_path: Path, postgres_url: str, redis_server: RedisServer) -> None:
    make_tables(f"sqlite:///{tmp_path}/db.sqlite3", filled=False)
    play(Page("docs/leaving.md", {EXAMPLE_DATABASE: postgres_url, **new_redis(redis_server, 9_232)}), tmp_path)


# -- the tables of django-celery-results


@pytest.fixture(params=[SQLITE, POSTGRES, MYSQL], ids=str)
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of an empty database."""
    under_test: StoreUnderTest = request.param
    with under_test.new_place(request) as url:
        yield url


def check_from_django(store: Store) -> None:
    found = store.get_many(["dj-sum", "dj-failed", "dj-running"])
    one, failed, running = found["dj-sum"], found["dj-failed"], found["dj-running"]
    assert (one.state, one.name, one.worker, one.done_at, one.started_at) == ("SUCCESS", "shop.add", "w@h", DONE, DONE)
    payloads = [one.result, one.args, one.kwargs, one.children]
    assert [payload and json.loads(payload.body) for payload in payloads] == [
        5,
        [2, 3],
        {"a": 1},
        [[["child", None], None]],
    ]
    assert failed.args is not None
    assert json.loads(failed.args.body) == "(1, 'a long te..."
    assert (failed.state, failed.traceback) == ("FAILURE", "the traceback")
    assert (running.state, running.done_at) == ("STARTED", None)
    group = store.get_group("dj-group")
    assert group is not None
    assert (json.loads(group.result.body)[1][0][0][0], group.done_at) == ("dj-sum", DONE)


def test_results_of_django_are_copied_and_go_back(database: str, tmp_path: Path) -> None:
    make_tables(database)
    with closing(open_store(f"sqlite:///{tmp_path}/target.sqlite3")) as store:
        assert copied(f"django-db+{database}", store.url)["copied"] == 3
        check_from_django(store)
        for one in examples():
            store.put(one)
        found = copied(store.url, f"django-db+{database}")
        assert (found["copied"], found["kept"]) == (6, 3)
        assert found["lost"]["expires_at"] == 1
        assert verified(store.url, f"django-db+{database}")["left"] == 0
    with closing(open_store(f"sqlite:///{tmp_path}/again.sqlite3")) as again:
        assert copied(f"django-db+{database}", again.url)["copied"] == 9
        check_from_django(again)
        one = again.get("everything")
        assert one is not None
        assert one.args is not None
        assert json.loads(one.args.body) == [1]


def test_missing_tables_of_django_are_named(tmp_path: Path) -> None:
    with closing(open_store(f"sqlite:///{tmp_path}/source.sqlite3")) as store:
        store.put(examples()[0])
        sqlite3.connect(tmp_path / "db.sqlite3").close()
        ended = run_here("copy", store.url, f"django-db+sqlite:///{tmp_path}/db.sqlite3")
    assert ended.status == 1
    assert "manage.py migrate django_celery_results" in ended.err
