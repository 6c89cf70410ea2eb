"""`rootcellar drain`, as a user runs it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import pytest

from rootcellar.maintenance.drain import Drain
from rootcellar.stores import Store, open_store
from rootcellar.stores.hybrid import WriteBehindStore
from tests.behind.helpers import open_behind
from tests.commands import command, environment, run_here, run_on_terminal
from tests.helpers import PATIENCE, record, wait_until
from tests.servers import PostgresServer, RedisServer


@pytest.fixture
def backend(new_postgres_url: str, front_url: str) -> str:
    """A URL for the command line; this PostgreSQL needs no password, because a query cannot contain one."""
    return url_of(new_postgres_url, front_url)


@pytest.fixture(scope="module")
def trusting_postgres() -> object:
    with PostgresServer(auth="trust") as server:
        yield server


@pytest.fixture
def new_postgres_url(trusting_postgres: PostgresServer) -> str:
    return trusting_postgres.create_database()


@pytest.fixture
def store(new_postgres_url: str, front_url: str) -> WriteBehindStore:
    return open_behind(new_postgres_url, front_url)


def url_of(durable: str, cache: str) -> str:
    return f"hybrid://?{urlencode({'durable_url': durable, 'cache_url': cache, 'mode': 'write-behind'})}"


def test_drain_once_moves_all_results(backend: str, store: WriteBehindStore, new_postgres_url: str) -> None:
    ones = [record() for _ in range(600)]
    for one in ones:
        store.put(one)
    ended = run_here("drain", "--backend", backend, "--once")
    # on a slow machine, lines of progress come before the last one
    assert (ended.status, ended.out.splitlines()[-1]) == (0, "600 moved. No result waits.")
    durable = open_store(new_postgres_url)
    assert len(durable.get_many(one.task_id for one in ones)) == 600
    store.put(record())
    ended = run_here("drain", "--backend", backend, "--once", "--json")
    assert ended.status == 0
    assert json.loads(ended.out) == {"moved": 1, "waiting": 0, "oldest_seconds": 0.0, "refused": 0}
    durable.close()
    store.close()


def test_drain_status_counts_waiting_results(backend: str, store: WriteBehindStore) -> None:
    assert run_here("drain", "-b", backend, "--status").out == "No result waits.\n"
    store.put(record())
    wait_until(lambda: store.lag().oldest > 0.2, "an age")
    ended = run_here("drain", "-b", backend, "--status")
    assert ended.status == 0
    assert ended.out.startswith("Waiting: 1, the oldest for ")
    ended = run_here("drain", "-b", backend, "--status", "--max-age", "0.1", "--json")
    assert ended.status == 1, "a result has waited for longer"
    printed = json.loads(ended.out)
    assert printed.pop("oldest_seconds") > 0.2
    assert printed == {"waiting": 1, "refused": 0, "max_age_seconds": 0.1, "append_only": True, "ok": False}
    assert store.lag().waiting == 1, "nothing was moved"
    store.close()


def test_drain_moves_results_until_it_is_interrupted(backend: str, store: WriteBehindStore, tmp_path: Path) -> None:
    line = command("drain", "--backend", backend, "--json")
    with subprocess.Popen(
        line, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        deadline, printed = time.monotonic() + PATIENCE, {"moved": 0}
        while printed["moved"] < 2 and time.monotonic() < deadline:
            store.put(record())
            printed = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert process.stderr.read().endswith("rootcellar: interrupted\n")
    store.close()


def test_drain_refuses_other_stores(backend: str, redis_url: str, tmp_path: Path) -> None:
    assert run_here("drain", "--once", "--status").status == 2
    for url in (f"sqlite:///{tmp_path}/x", backend.replace("write-behind", "write-through")):
        ended = run_here("drain", "-b", url, "--once")
        assert (ended.status, ended.out) == (2, "")
        assert "only a hybrid in the mode write-behind moves results" in ended.err
    unsafe = run_here("drain", "-b", url_of("postgresql://localhost/none", redis_url))
    assert (unsafe.status, unsafe.out) == (4, "")
    assert "keeps no append-only file" in unsafe.err
    assert "--once" in run_on_terminal("drain", "--help").out


def test_drain_moves_results_without_an_append_only_file(new_postgres_url: str, own_redis: RedisServer) -> None:
    """This is when it matters most: a restart of Redis would lose them."""
    store = open_behind(new_postgres_url, own_redis.url)
    ones = [record() for _ in range(3)]
    for one in ones:
        store.put(one)
    store.close()
    with own_redis.client() as client:
        client.config_set("appendonly", "no")
    url = url_of(new_postgres_url, own_redis.url)
    status = run_here("drain", "-b", url, "--status", "--json")
    found = json.loads(status.out)
    assert (status.status, found["waiting"], found["append_only"], found["ok"]) == (4, 3, False, False)
    assert "keeps no append-only file" in status.err
    assert run_here("drain", "-b", url, "--status", "--max-age", "0").status == 1
    moved = run_here("drain", "-b", url, "--once")
    assert (moved.status, moved.out) == (4, "3 moved. No result waits.\n")
    assert "keeps no append-only file" in moved.err
    durable = open_store(new_postgres_url)
    assert len(durable.get_many(one.task_id for one in ones)) == 3
    durable.close()


def test_drain_has_an_exit_status_for_each_reason(
    backend: str, store: WriteBehindStore, front_url: str, new_postgres_url: str
) -> None:
    store.put(record())
    wait_until(lambda: store.lag().oldest > 0.2, "an age")
    assert run_here("drain", "-b", backend, "--status", "--max-age", "0.1").status == 1
    away = run_here("drain", "-b", url_of(new_postgres_url, "redis://127.0.0.1:1/0"), "--status")
    assert (away.status, away.out) == (3, "")
    assert "Connection refused" in away.err
    nowhere = run_here("drain", "-b", url_of("postgresql://127.0.0.1:1/none", front_url), "--once")
    assert (nowhere.status, nowhere.out) == (3, "")
    store.put(record(retries=1 << 40))
    refused = run_here("drain", "-b", backend, "--once")
    assert refused.status == 1
    assert "1 stay in Redis" in refused.out
    help_text = run_here("drain", "--help").out
    for status in range(5):
        assert re.search(rf"^  {status}  \w", help_text, re.MULTILINE)
    store.close()


def test_drain_waits_for_the_end_of_an_outage_and_logs_it_once(
    new_postgres: Callable[..., PostgresServer], own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    postgres = new_postgres()
    url = postgres.create_database()
    store = open_behind(url, own_redis.url)
    draining = Drain(store)
    durable: Store = open_store(url)
    durable.check()
    draining.start()
    for number, server in enumerate((postgres, own_redis), 1):
        server.kill()
        one = record()
        if server is postgres:
            assert store.put(one).written, "storing goes on"
            assert store.get(one.task_id) == one
        wait_until(lambda: len(_outages(caplog)) == number, "a warning")  # noqa: B023
        server.start()
        if server is own_redis:
            store.put(one)
        wait_until(lambda: durable.get(one.task_id) == one, "the result")  # noqa: B023
        wait_until(lambda: len(_ends_of_outages(caplog)) == number, "its end")  # noqa: B023
    assert draining.stop(PATIENCE)
    assert len(_outages(caplog)) == 2
    assert draining.signals.done == 2
    store.close()
    durable.close()


def _outages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if line.startswith("Could not move results (none of them is lost)")]


def _ends_of_outages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if line.startswith("The result store works again")]
