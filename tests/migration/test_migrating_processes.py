"""`rootcellar migrate` with real processes that store and read: they follow it, and it survives kill -9."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from rootcellar.migration.coordinator import Coordinator, set_rate
from rootcellar.migration.pair import Pair, pair_of
from rootcellar.migration.state import State, find_state
from rootcellar.stores import open_store
from rootcellar.stores.dual.phases import Phase
from rootcellar.testing.child_processes import die_with_parent, poll
from tests.commands import Ended, command, environment, run_here
from tests.migration.coordinating import book, coordinator, in_store, records

SECONDS = 60.0
HOST = socket.gethostname()


class Storing:
    """A process that stores results all the time, see `storing.py`."""

    def __init__(self, name: str, source: str, target: str) -> None:
        line = [sys.executable, "-m", "tests.migration.storing", name, source, target]
        self._process = subprocess.Popen(
            die_with_parent(line), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
        )
        self.lines: list[str] = []
        self.pid = self._process.pid
        # it has stored something, so it follows the migration
        assert self._process.stdout is not None
        self.lines.append(self._process.stdout.readline())

    @property
    def name(self) -> str:
        return f"{HOST}/{self.pid}"

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def stored(self) -> list[str]:
        """End it, and return the ids of what it has stored. Fail if it has got a wrong answer."""
        out, _ = self._process.communicate(timeout=SECONDS)
        self.lines += out.splitlines()
        assert [line for line in self.lines if line.startswith("wrong")] == []
        return [line.split()[1] for line in self.lines if line.startswith("stored")]


class Migrated:
    """A migration from Redis to PostgreSQL, with old results."""

    def __init__(self, source: str, target: str, old: int) -> None:
        self.source, self.target = source, target
        self.pair: Pair = pair_of(open_store(source), open_store(target))
        self.pair.source.mirrored.copy(records(old))
        self.old = old

    def migrate(self, *args: str) -> Ended:
        """Run a command of the migration, in this process, which is faster."""
        return run_here("migrate", args[0], self.source, self.target, *args[1:])

    def done(self, *args: str) -> None:
        """Run a command that must succeed."""
        ended = self.migrate(*args)
        assert ended.status == 0, ended

    def begin(self, *args: str) -> subprocess.Popen[bytes]:
        """Start a command, and do not wait for it."""
        line = command("migrate", args[0], self.source, self.target, *args[1:])
        return subprocess.Popen(
            die_with_parent(line), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def state(self) -> State | None:
        return find_state(self.pair.target)

    def until(self, condition: Callable[[State], object]) -> None:
        """Wait until the state of the migration meets a condition."""

        def is_met() -> bool:
            state = self.state()
            return state is not None and bool(condition(state))

        assert poll(is_met, SECONDS)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.migrate("status", "--json").out)
        return found


@pytest.fixture
def migrated(redis_url: str, postgres_url: str) -> Iterator[Callable[[int], Migrated]]:
    with ExitStack() as stack:

        def make(old: int) -> Migrated:
            made = Migrated(redis_url, postgres_url, old)
            stack.callback(made.pair.close)
            return made

        yield make


@contextmanager
def storing(migration: Migrated, *names: str) -> Iterator[list[Storing]]:
    processes = [Storing(name, migration.source, migration.target) for name in names]
    try:
        yield processes
    finally:
        for each in processes:
            each.signal(signal.SIGCONT) if each._process.poll() is None else None
            each._process.kill()
            each._process.communicate()


#: commands of a migration, each with the phase in which its pass runs
STEPS = (
    (Phase.DUAL, "start"),
    (Phase.DUAL, "advance"),
    (Phase.SWITCHING, "advance"),
    (Phase.TARGET_FIRST, "rollback"),
    (Phase.SWITCHING, "advance"),
    (Phase.TARGET_FIRST, "advance"),
    (Phase.TARGET_ONLY, "retire"),
)


def test_coordinator_that_was_killed_in_each_phase_goes_on(migrated: Callable[[int], Migrated]) -> None:
    migration = migrated(300)
    run_again: dict[str, Callable[[Coordinator], object]] = {
        "start": Coordinator.start,
        "advance": Coordinator.advance,
        "rollback": lambda again: again.rollback(Phase.SWITCHING),
        "retire": Coordinator.retire,
    }
    with storing(migration, "one") as processes:
        for phase, step in STEPS:
            args = [step, "--yes", *(["--to", "switching"] if step == "rollback" else [])]
            if step not in ("rollback", "retire"):
                # so slow that it is killed in the middle of its pass
                killed = migration.begin(*args, "--rate", "200")
                migration.until(lambda state, phase=phase: state.phase >= phase and state.work is not None)  # type: ignore[misc]
            else:
                killed = migration.begin(*args)
                migration.until(lambda state: state.operator)
            killed.kill()
            killed.wait()
            set_rate(book(migration.pair), None)
            run_again[step](coordinator(migration.pair))
        stored = processes[0].stored()
    state = migration.state()
    assert state is not None
    assert state.phase is Phase.RETIRED
    in_target = in_store(migration.pair.target.store)
    assert set(stored) - set(in_target) == set()
    assert len(in_target) == len(stored) + 300


def test_frozen_process_is_named_and_a_killed_one_is_not_waited_for(migrated: Callable[[int], Migrated]) -> None:
    migration = migrated(10)
    with storing(migration, "one", "two") as processes:
        frozen, killed = processes
        plan = migration.migrate("plan")
        assert plan.status == 0, plan
        assert f"2 processes on 1 host ({HOST}: 2) follow the migration" in plan.out
        migration.done("start", "--yes")
        frozen.signal(signal.SIGSTOP)
        killed.signal(signal.SIGKILL)
        killed._process.wait()
        ended = migration.migrate("advance", "--yes", "--wait", "3s")
        assert ended.status == 1
        assert "1 process has not confirmed the phase 'switching'" in ended.err
        assert frozen.name in ended.err
        assert killed.name not in ended.err
        shown = migration.migrate("status")
        assert shown.status == 1
        assert re.search(rf"silent +{frozen.name} \(client\) for ", shown.out), shown
        frozen.signal(signal.SIGCONT)
        for phase in (Phase.SWITCHING, Phase.TARGET_FIRST):
            # the first one finishes the step that has ended without a confirmation
            migration.done("advance", "--yes")
            state = migration.state()
            assert state is not None
            assert state.phase is phase
        frozen.stored()


def test_second_command_changes_the_rate_of_the_first_one(migrated: Callable[[int], Migrated]) -> None:
    migration = migrated(300)
    first = migration.begin("start", "--yes", "--rate", "5")
    migration.until(lambda state: state.work is not None and state.work.done)
    refused = migration.migrate("start", "--yes")
    assert refused.status == 1
    assert "coordinates the migration at this moment: pass source = target" in refused.err
    migration.done("advance", "--rate", "0")
    assert first.wait(SECONDS) == 0
    status = migration.status()
    assert (status["state"]["rate"], status["state"]["work"]["done"] >= 300) == (None, True)
