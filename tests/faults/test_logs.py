"""An outage is logged once at its begin, and once at its end."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from rootcellar.backend.retries import retry
from rootcellar.errors import StoreUnavailable
from rootcellar.stores.postgres import driver
from rootcellar.support import outages
from rootcellar.support.backoff import Backoff
from rootcellar.support.outages import Outage
from tests.faults.helpers import Cluster
from tests.servers import PostgresServer


def fails(times: int) -> Callable[[], str]:
    """Return a function that fails ``times`` times."""
    left = [times]

    def work() -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise StoreUnavailable("away", where="the server")
        return "done"

    return work


def try_hard(work: Callable[[], str], outage: Outage) -> str:
    return retry(work, action="store it", limit=lambda: float("inf"), backoff=Backoff(0.1, 0.1), outage=outage)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


def test_outage_with_many_retries_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage()
    assert try_hard(fails(20), outage) == "done"
    begin, log_end = messages(caplog)
    assert begin.startswith("Could not store it: away [the server]")
    assert "Trying again until it works" in begin
    assert log_end.startswith("The result store works again, after ")
    assert not outage.is_on
    caplog.clear()
    assert try_hard(fails(0), outage) == "done"
    assert messages(caplog) == []
    assert try_hard(fails(2), outage) == "done"
    assert len(messages(caplog)) == 2, "the next outage is logged again"


def test_forked_children_log_one_outage_together(caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage()
    child = os.fork()
    if not child:
        outage.log_failure("store it", StoreUnavailable("away"))
        os._exit(0)
    os.waitpid(child, 0)
    assert outage.is_on
    outage.log_failure("store another one", StoreUnavailable("away"))
    assert messages(caplog) == [], "the child has logged it"
    outage.log_end()
    outage.log_end()
    assert len(messages(caplog)) == 1


def test_outage_without_an_end_is_forgotten(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    outage = Outage()
    outage.log_failure("store it", StoreUnavailable("away"))
    monkeypatch.setattr(outages, "FORGET_AFTER_SECONDS", -1.0)
    outage.log_failure("store it", StoreUnavailable("away"))
    assert len(messages(caplog)) == 2


def test_outage_right_after_the_machines_start_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the clock counts from the start of the machine
    monkeypatch.setattr(outages, "FORGET_AFTER_SECONDS", float("inf"))
    Outage().log_failure("store it", StoreUnavailable("away"))
    assert len(messages(caplog)) == 1


def test_second_outage_is_logged_while_older_work_still_fails(caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage()
    outage.log_failure("store one", StoreUnavailable("away"))
    outage.log_end()
    outage.log_failure("store one", StoreUnavailable("away"), is_first=False)
    assert not outage.is_on, "that call failed before the end, or will fail again"
    outage.log_failure("store another one", StoreUnavailable("away"))
    assert outage.is_on
    assert [each.split(":")[0] for each in messages(caplog)] == [
        "Could not store one",
        "The result store works again, after 0 s.",
        "Could not store another one",
    ]


def test_worker_logs_one_outage_of_all_its_processes(
    new_postgres: Callable[..., PostgresServer], redis_url: str, tmp_path: Path
) -> None:
    server = new_postgres()
    cluster = Cluster(tmp_path, redis_url, server.create_database())
    cluster.create_tables()
    square = cluster.task("square")
    worker = cluster.worker(concurrency=4)
    with cluster.workers(worker):
        assert square.delay(3).get(timeout=60)["square"] == 9
        server.stop()
        results = [square.delay(number) for number in range(12)]
        worker.wait_for_log("Could not store", timeout=60)
        server.start()
        assert [each.get(timeout=60)["number"] for each in results] == list(range(12))
        worker.wait_for_log("The result store works again", timeout=60)
        log = worker.log.read_text()
    # two processes may fail in the same instant
    assert 1 <= log.count("Could not store") <= 2, log
    assert 1 <= log.count("The result store works again") <= 2, log
    assert "error ignored" not in log


# -- an abandoned connection


def sleep(connection: driver.Connection) -> None:
    with connection, connection.transaction():
        connection.execute("SELECT pg_sleep(60)")


def sleep_in_a_pipeline(connection: driver.Connection) -> None:
    with connection:
        connection.pgconn.enter_pipeline_mode()
        connection.pgconn.send_query_params(b"SELECT pg_sleep(60)", None)
        raise driver.Silent("given up")


@pytest.mark.parametrize("give_up", [sleep, sleep_in_a_pipeline])
def test_abandoned_connection_is_closed_without_a_rollback(
    give_up: Callable[[driver.Connection], None], postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    connection = driver.connect(driver.connection_settings(postgres_url, {}), "here")
    connection.silence = 0.1
    with pytest.raises(driver.Silent):
        give_up(connection)
    assert connection.closed
    assert "error ignored" not in caplog.text


def fail(connection: driver.Connection) -> None:
    with connection.transaction():
        connection.execute("CREATE TABLE kept (n int)")
        connection.execute("SELECT 1 / 0")


def test_failed_transaction_is_rolled_back(postgres_url: str) -> None:
    connection = driver.connect(driver.connection_settings(postgres_url, {}), "here")
    with pytest.raises(psycopg.errors.DivisionByZero):
        fail(connection)
    assert connection.execute("SELECT to_regclass('kept')").fetchone() == (None,)
    connection.close()
