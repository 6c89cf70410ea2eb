"""A task's outcome is stored even if the store refuses the whole record, or after a long outage."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context

from rootcellar.backend import outgoing
from rootcellar.backend.outgoing import Outgoing
from rootcellar.backend.recorder import CUT
from rootcellar.errors import PayloadTooLarge, RecordRefused, StoreUnavailable
from rootcellar.retention.policy import MIN_BLOB_SECONDS
from rootcellar.stores.sqlite import driver
from tests.mariadb_server import MariaDBServer

MEGABYTE = 1 << 20


def app_on(url: str, **conf: Any) -> Celery:
    app = Celery(broker="memory://", backend=f"rootcellar+{url}", set_as_current=False)
    app.conf.update(result_extended=True, **conf)
    return app


@pytest.fixture
def small_mariadb(new_mysql: Callable[..., MariaDBServer]) -> Iterator[Celery]:
    app = app_on(new_mysql(max_allowed_packet="1M").create_database())
    yield app
    app.backend.store.close()


@pytest.fixture
def mongodb(mongo_server: Any) -> Iterator[Celery]:
    app = app_on(url := mongo_server.new_database())
    yield app
    app.backend.store.close()
    mongo_server.drop_database(url)


def raised(text: str) -> ValueError:
    return ValueError(text, "and more")


def test_large_failure_is_stored_truncated(small_mariadb: Celery) -> None:
    request = Context(id="a", task="t", args=["x" * 2 * MEGABYTE], kwargs={"y": 1}, stamps={"s": [1]})
    request.stamped_headers = ["s"]
    small_mariadb.backend.store_result("a", raised("e" * 9_000_000), "FAILURE", "t" * 3_000_000, request=request)
    found = small_mariadb.AsyncResult("a")
    assert found.state == "FAILURE"
    assert type(found.result) is ValueError
    assert found.result.args[0].startswith("eee")
    assert found.result.args[0].endswith("… [9,000,000 characters]")
    assert found.result.args[1] == "and more"
    assert "[3,000,000 characters]" in found.traceback
    assert found.kwargs == {"y": 1}
    meta = small_mariadb.backend.get_task_meta("a")
    assert set(meta[CUT]) == {"result", "traceback", "args"}
    assert meta["s"] == [1]


@pytest.mark.parametrize(("name", "count"), [("small_mariadb", 10_000), ("mongodb", 100_000)])
def test_result_with_very_many_children_is_stored(
    name: str, count: int, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    app = request.getfixturevalue(name)
    children = [app.AsyncResult(f"{number:0200}") for number in range(count)]
    context = Context(id="a", task="t")
    context.children.extend(children)
    app.backend.store_result("a", {"n": 1}, "SUCCESS", request=context)
    found = app.AsyncResult("a")
    assert found.get() == {"n": 1}
    assert found.children
    assert [child.id for child in found.children] == [child.id for child in children[: len(found.children)]]
    assert len(found.children) < count
    assert set(app.backend.get_task_meta("a")[CUT]) == {"children"}
    assert any("of task a is stored with children" in record.getMessage() for record in caplog.records)


def test_too_large_value_is_refused_by_name(small_mariadb: Celery) -> None:
    with pytest.raises(PayloadTooLarge, match=r"the largest field of task a is its result: 2,097,154 bytes"):
        small_mariadb.backend.store_result("a", "x" * 2 * MEGABYTE, "SUCCESS")
    assert small_mariadb.AsyncResult("a").state == "PENDING"


def test_too_large_document_is_refused_by_name(mongodb: Celery) -> None:
    with pytest.raises(RecordRefused, match=r"the largest field of task a is its result"):
        mongodb.backend.store_result("a", "x" * 17 * MEGABYTE, "SUCCESS")


def test_blob_is_renewed_after_a_long_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "BUSY_TIMEOUT", 0.1)
    monkeypatch.setattr(outgoing, "RENEW_AFTER_SECONDS", 0.0)
    app = app_on(
        f"sqlite:///{tmp_path}/results.db",
        result_blob_url=str(tmp_path / "blobs"),
        result_max_size=10,
        result_too_large="spill",
    )
    backend = app.backend
    backend.store_result("before", 1, "SUCCESS")

    def make(cut_to: int | None) -> Any:
        return backend._record("a", "x" * 100, "SUCCESS", None, None, cut_to=cut_to)

    going = Outgoing(make(None), make)
    with closing(sqlite3.connect(tmp_path / "results.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable):
            backend._put(going, None, None)
        for blob in (tmp_path / "blobs").glob("??/*"):
            os.utime(blob, (time.time() - 2 * MIN_BLOB_SECONDS,) * 2)
        assert backend.codec.spiller.sweep(backend.store, MIN_BLOB_SECONDS) > 0
        other.execute("ROLLBACK")
    assert backend._put(going, None, None).written
    backend.codec.spiller.sweep(backend.store, MIN_BLOB_SECONDS)
    assert app.AsyncResult("a").get() == "x" * 100
    backend.store.close()
