"""Counts acknowledged results while Redis, PostgreSQL and the drainers are killed and frozen."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from rootcellar import errors
from rootcellar.records import Payload
from rootcellar.stores import Store, open_store
from rootcellar.testing.synced_processes import SyncedProcesses
from tests.behind.helpers import open_behind
from tests.commands import command, environment
from tests.faults.helpers import Audit
from tests.helpers import HEAVY, record, wait_until
from tests.servers import PostgresServer, RedisServer

SECONDS = 40.0 if HEAVY else 5.0
#: seconds for which Redis keeps moved results: so short that many are read from PostgreSQL
EXPIRES = 1.5


class Drain:
    """A process of `rootcellar drain` that a test may kill and freeze."""

    def __init__(self, backend: str, log: Path) -> None:
        self._line = command("drain", "--backend", backend)
        self._log = log
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as out:
            self.process = subprocess.Popen(self._line, env=environment(), stdout=out, stderr=out)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)


def test_acknowledged_results_survive_kills_of_every_part(
    new_postgres: Callable[..., PostgresServer], own_redis: RedisServer, tmp_path: Path
) -> None:
    """No acknowledged result is lost, changed or duplicated, in Redis or in PostgreSQL."""
    postgres = new_postgres(auth="trust")
    url = postgres.create_database()
    open_store(url).check()
    audit = Audit(url)
    chance = random.Random(11)
    happened: list[str] = []
    parts = urlencode(
        {"durable_url": url, "cache_url": own_redis.url, "mode": "write-behind", "cache_expires": EXPIRES}
    )
    drains = [Drain(f"hybrid://?{parts}", tmp_path / f"drain{number}.log") for number in range(2)]

    def kill_redis() -> None:
        own_redis.kill()
        time.sleep(chance.uniform(0, 0.3))
        own_redis.start()

    def kill_postgres() -> None:
        postgres.kill()
        time.sleep(chance.uniform(0, 0.3))
        postgres.start()

    def kill_drainer() -> None:
        drain = chance.choice(drains)
        drain.kill()
        drain.start()

    def freeze_drainer() -> None:
        drain = chance.choice(drains)
        drain.signal(signal.SIGSTOP)
        time.sleep(chance.uniform(0, 0.6))
        drain.signal(signal.SIGCONT)

    def disturb(working: Callable[[], bool]) -> None:
        faults = [kill_redis, kill_drainer, kill_drainer, freeze_drainer, freeze_drainer]
        while working():
            time.sleep(chance.uniform(0.05, 0.4))
            fault = kill_postgres if len(happened) % 6 == 3 else chance.choice(faults)
            fault()
            happened.append(fault.__name__)

    with SyncedProcesses() as processes, ThreadPoolExecutor(1) as pool:
        books = pool.submit(processes.run_alike, 2, _keep_account, url, own_redis.url)
        disturb(lambda: not books.done())
        answers = books.result()
    assert len(happened) > 4, happened
    account = {task_id: value for book, _ in answers for task_id, value in book.items()}
    kept = {task_id: value for task_id, value in account.items() if value is not None}
    assert [line for _, lines in answers for line in lines] == []
    assert 100 < len(kept) < len(account), "some results were forgotten"

    behind, durable = open_behind(url, own_redis.url), open_store(url)
    wait_until(lambda: behind.lag().waiting == 0, "the end of the journal")
    for drain in drains:
        drain.kill()
    for store in (behind, durable):
        found = {task_id: one.result.body for task_id, one in store.get_many(account).items() if one.result}
        assert found == kept
    assert {one.task_id for one in durable.scan(limit=10 * len(account))} == set(kept)
    assert audit.overwritten() == []
    behind.close()
    durable.close()


def _keep_account(url: str, cache_url: str, number: int) -> tuple[dict[str, bytes | None], list[str]]:
    """Store, overwrite, forget and read for a while; return the expected results, and what was wrong."""
    store = open_behind(url, cache_url, cache_expires=EXPIRES)
    chance = random.Random(number)
    account: dict[str, bytes | None] = {}
    #: stored again after Redis had dropped them: until they are moved, another value may be read
    unsettled: set[str] = set()
    wrong: list[str] = []
    deadline = time.monotonic() + SECONDS

    def keep(one: Any) -> Any:
        return _persist(lambda: store.put(one))

    while time.monotonic() < deadline:
        task_id = f"{number}-{len(account)}"
        one = record(task_id, chance.randrange(10**9))
        path = chance.randrange(6)
        if path == 0:
            keep(replace(one, state="STARTED", done_at=None, result=None))
            keep(replace(one, state="FAILURE", result=Payload(b'"no"')))
            _persist(lambda: store.get(task_id))  # noqa: B023
        keep(one)
        account[task_id] = one.result.body  # type: ignore[union-attr]
        if path == 1:
            again = replace(one, result=Payload(b'"another"'), state=chance.choice(["SUCCESS", "FAILURE"]))
            if keep(again).written:
                unsettled.add(task_id)
        if path == 2:
            forgotten = chance.choice(list(account))
            _persist(lambda: store.delete([forgotten]))  # noqa: B023
            account[forgotten] = None
            if chance.randrange(2):
                other = record(forgotten, chance.randrange(10**9))
                keep(other)
                account[forgotten] = other.result.body  # type: ignore[union-attr]
                unsettled.discard(forgotten)
        if path == 3:
            old = chance.choice(list(account))
            if account[old] is not None:
                keep(record(old, "-1", state=chance.choice(["SUCCESS", "FAILURE"])))
                unsettled.add(old)
        some = {task_id, *chance.choices(list(account), k=chance.choice([1, 1, 5]))} - unsettled
        found = _persist(lambda: _read(store, some))  # noqa: B023
        wrong += [
            f"{read_id}: {found.get(read_id)!r} in place of {account[read_id]!r}"
            for read_id in some
            if found.get(read_id) != account[read_id]
        ]
    store.close()
    return account, wrong


def _read(store: Store, ids: set[str]) -> dict[str, bytes]:
    found = {task_id: one for task_id in ids if (one := store.get(task_id))} if len(ids) == 1 else store.get_many(ids)
    return {task_id: one.result.body for task_id, one in found.items() if one.result}


def _persist(work: Callable[[], Any]) -> Any:
    """Repeat a call until it is acknowledged, as the backend does."""
    while True:
        try:
            return work()
        except errors.RootcellarError as exc:
            if not exc.retryable:
                raise
            time.sleep(0.02)
