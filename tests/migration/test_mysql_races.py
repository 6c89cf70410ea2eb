"""MySQL: a burial and a late copy of the same task exclude each other, at each step of both."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pymysql
import pytest

from rootcellar.records import TaskRecord
from rootcellar.stores.mysql import MySQLStore
from rootcellar.stores.mysql.url import connection_settings
from rootcellar.testing.helpers import PATIENCE, record, wait_until
from tests.conformance.registered import run_on_mysql

#: the burials that nobody has committed yet
DIRTY = "SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED; SELECT task_id FROM celery_taskmeta_buried"


@pytest.fixture
def stores(mysql_url: str) -> Iterator[tuple[MySQLStore, MySQLStore]]:
    with closing(MySQLStore(mysql_url)) as one, closing(MySQLStore(mysql_url)) as other:
        one.check()
        other.check()
        yield one, other


class _Pause:
    """Stops a thread at a point, until it is released."""

    def __init__(self) -> None:
        self.reached, self._released = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self._released.wait(PATIENCE)

    def release(self) -> None:
        self._released.set()


def _pauses(store: Any, method: str, is_there: Callable[..., bool] = lambda *args: True) -> _Pause:
    """Let a store stop before it calls one of its methods with certain arguments."""
    pause, real = _Pause(), getattr(store, method)

    def paused(*args: Any, **kwargs: Any) -> Any:
        if is_there(*args):
            pause()
        return real(*args, **kwargs)

    setattr(store, method, paused)
    return pause


def _ends_or_waits(work: Future[Any], url: str, one: TaskRecord, waiting: int = 1) -> None:
    """Wait until a call has ended, or so many statements with the id of a task wait for locks."""

    def is_so() -> bool:
        ((_, _, text),) = run_on_mysql(url, "SHOW ENGINE INNODB STATUS")
        transactions = text.split("---TRANSACTION")
        return work.done() or sum("LOCK WAIT" in each and one.task_id in each for each in transactions) == waiting

    wait_until(is_so, "the call waits for a lock, or ends")


def _brings(store: MySQLStore, verb: str, one: TaskRecord) -> Callable[[], object]:
    if verb == "copy":
        return lambda: store.copy([one])
    return lambda: getattr(store, verb)(one)


@pytest.mark.parametrize("verb", ["mirror", "settle", "copy"])
def test_late_copy_waits_for_a_burial_that_has_not_committed(
    stores: tuple[MySQLStore, MySQLStore], mysql_url: str, verb: str
) -> None:
    burying, bringing = stores
    one = record()
    pause = _pauses(burying, "_many_of", lambda connection, statement, params: statement == "put_burial")
    with ThreadPoolExecutor(2) as pool:
        burial = pool.submit(burying.bury, [one.task_id], {one.task_id: [one]})
        assert pause.reached.wait(PATIENCE)
        late = pool.submit(_brings(bringing, verb, one))
        _ends_or_waits(late, mysql_url, one)
        pause.release()
        burial.result(PATIENCE)
        late.result(PATIENCE)
    assert bringing.get(one.task_id) is None


def test_burial_waits_for_a_copy_that_has_found_none(stores: tuple[MySQLStore, MySQLStore], mysql_url: str) -> None:
    burying, copying = stores
    one = record()
    pause = _pauses(copying, "_copy_rows")
    with ThreadPoolExecutor(2) as pool:
        copy = pool.submit(copying.copy, [one])
        assert pause.reached.wait(PATIENCE)
        burial = pool.submit(burying.bury, [one.task_id], {one.task_id: [one]})
        _ends_or_waits(burial, mysql_url, one)
        pause.release()
        assert copy.result(PATIENCE).written == {one.task_id}
        assert burial.result(PATIENCE) == {one.task_id: one}
    assert copying.get(one.task_id) is None


def test_burial_waits_for_a_mirror_that_has_found_none(stores: tuple[MySQLStore, MySQLStore], mysql_url: str) -> None:
    """A mirror is one statement. Here it waits in the middle of it, because another session stores the same task."""
    burying, mirroring = stores
    one = record()
    other = pymysql.connect(**connection_settings(mysql_url, {}))
    with other, other.cursor() as cursor, ThreadPoolExecutor(2) as pool:
        other.begin()
        cursor.execute(
            "INSERT INTO celery_taskmeta (task_id, status, put_id) VALUES (%s, 'STARTED', 1)", (one.task_id,)
        )
        mirror = pool.submit(mirroring.mirror, one)
        _ends_or_waits(mirror, mysql_url, one)
        burial = pool.submit(burying.bury, [one.task_id], {one.task_id: [one]})
        _ends_or_waits(burial, mysql_url, one, waiting=2)
        assert run_on_mysql(mysql_url, DIRTY) == [], "it has stored nothing yet"
        other.rollback()
        mirror.result(PATIENCE)
        burial.result(PATIENCE)
    assert mirroring.get(one.task_id) is None
