"""The target fails during dual write: all results are stored, and a comparison finds what was noted and repairs it."""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from rootcellar.migration.coordinator import Coordinator, Options
from rootcellar.migration.state import UNMIRRORED
from rootcellar.migration.verifying import Found
from rootcellar.stores.dual import Phase
from tests.helpers import HEAVY, wait_until
from tests.migration import test_dual_failing as failing
from tests.migration.live.application import ROUNDS, STOP, STORED, WRONG, Setup, store_results
from tests.servers import PostgresServer, RedisServer

PROCESSES = 4
#: results of each process before the failure, while it lasts, and after it
RESULTS = 400 if HEAVY else 15
_forks = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A server that these tests may stop."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="module")
def redis_target() -> Iterator[RedisServer]:
    """A server that these tests may fill."""
    with RedisServer() as server:
        yield server


def slow(postgres: PostgresServer, _: RedisServer) -> tuple[str, AbstractContextManager[None]]:
    """The server waits for 2 s at each write."""
    url = postgres.create_database()
    database = url.rpartition("/")[2].partition("?")[0]

    def let_writes(statement: str) -> None:
        # the trigger stays: dropping it would wait until no statement uses the table
        postgres.execute(
            "CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
            f"'BEGIN {statement} RETURN NEW; END'",
            database,
        )

    @contextmanager
    def fails() -> Iterator[None]:
        let_writes("PERFORM pg_sleep(2);")
        for table in ("celery_taskmeta", "celery_taskmeta_shared"):
            postgres.execute(
                f"CREATE TRIGGER slow BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION slow()", database
            )
        try:
            yield
        finally:
            let_writes("")

    return url, fails()


class Storing:
    """Processes that store results all the time."""

    def __init__(self, setup: Setup) -> None:
        self.notes = redis.Redis.from_url(setup.broker)
        self.pair = setup.open_pair()
        self._processes: list[Any] = []
        for number in range(PROCESSES):
            process = _forks.Process(target=store_results, args=(setup, number))
            process.start()
            self._processes.append(process)

    def wait_for_results(self) -> None:
        """Wait until each process has stored some more results."""
        before = self._counts()

        def have_stored() -> bool:
            assert self.notes.lrange(WRONG, 0, -1) == []
            now = self._counts()
            names = [f"client-{number}" for number in range(PROCESSES)]
            return all(now.get(name, 0) >= before.get(name, 0) + RESULTS for name in names)

        wait_until(have_stored, "results are stored", timeout=120)

    def _counts(self) -> dict[str, int]:
        found: Any = self.notes.hgetall(ROUNDS)
        return {name.decode(): int(count) for name, count in found.items()}

    def end(self) -> dict[str, float]:
        """Let the processes end; return the ids of all results, with the seconds that storing took."""
        self.notes.set(STOP, "1")
        for process in self._processes:
            process.join(60)
            assert process.exitcode == 0
        lines: Any = self.notes.lrange(STORED, 0, -1)
        return dict(json.loads(line) for line in lines)

    def noted(self) -> set[str]:
        """Return the ids that the processes have noted."""
        return {key.removeprefix(UNMIRRORED) for key in self.pair.source.values.shared(UNMIRRORED)}

    def differing(self) -> dict[str, str]:
        """Compare both stores; return the ids that differ, with the class of the difference."""
        found: list[Found] = []
        self.pair.verifying(found.append).run()
        return {each.record_id: each.kind.value for each in found}

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
            process.close()
        with suppress(redis.ConnectionError):
            self.notes.close()
        self.pair.close()


@pytest.mark.timeout(900 if HEAVY else 180)
@pytest.mark.parametrize(
    "failure", [failing.stopped, slow, failing.refusing, failing.full], ids=lambda failure: failure.__name__
)
def test_comparison_finds_what_was_noted_while_the_target_failed(
    failure: Callable[..., tuple[str, AbstractContextManager[None]]],
    postgres: PostgresServer,
    redis_target: RedisServer,
    redis_server: RedisServer,
    tmp_path: Path,
) -> None:
    redis_server.flush()
    redis_target.flush()
    url, fails = failure(postgres, redis_target)
    setup = Setup(
        broker=redis_server.database_url(7),
        source=redis_server.database_url(2),
        options={},
        target=url,
        log=tmp_path / "log",
        old=0,
        lease=10.0,
        pause=0.1,
    )
    storing = Storing(setup)
    try:
        storing.wait_for_results()
        coordinator = Coordinator(storing.pair, Options(look_every=0.05))
        assert coordinator.start().phase is Phase.DUAL
        assert storing.noted() == set()
        with fails:
            storing.wait_for_results()
            wait_until(lambda: len(storing.noted()) >= PROCESSES * RESULTS, "the notes", timeout=60)
        storing.wait_for_results()
        seconds = storing.end()
        noted, differing = storing.noted(), storing.differing()
        assert set(differing.values()) == {"missing"}
        assert noted <= seconds.keys()
        assert differing.keys() <= noted
        # what was on its way when the target was stopped, or when nobody waited for it any more, may have arrived
        on_its_way = {failing.stopped: PROCESSES, slow: 2 * PROCESSES}
        assert len(noted - differing.keys()) <= on_its_way.get(failure, 0)
        assert coordinator.advance().phase is Phase.SWITCHING
        assert storing.differing() == {}
        assert storing.noted() == set()
        slowest = sorted(seconds.values())
        print(
            f"{failure.__name__}: {len(seconds):,} results, {len(noted):,} noted, {len(differing):,} missing, p99 "
            f"{slowest[int(len(slowest) * 0.99)] * 1e3:.0f} ms, slowest {slowest[-1] * 1e3:.0f} ms",
            file=sys.stderr,
        )
    finally:
        storing.close()
