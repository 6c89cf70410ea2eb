"""Two processes with a service that only one of them may run."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from rootcellar.maintenance.leadership import StoreLeader
from rootcellar.maintenance.runner import Runner
from rootcellar.maintenance.service import Service
from rootcellar.maintenance.signals import Signal
from rootcellar.stores import open_store

#: seconds after which a dead leader is replaced, by the store's clock
LEASE = 1.5
PATIENCE = 30.0


class Alone(Service):
    """A service that prints when it runs."""

    name = "work for one"
    action = "work"
    is_single = True

    def run_once(self) -> int:
        print("ran", flush=True)
        return 1

    def pause_after(self, done: int) -> float:
        return 0.05


def lead(url: str) -> None:
    """Run the service until this process is killed."""
    runner = new_runner(url)
    runner.start()
    runner.services[0].signals.wait(Signal.STOPPED, timeout=300.0)


def new_runner(url: str) -> Runner:
    return Runner([Alone()], partial(StoreLeader, open_store(url), lease=LEASE))


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_other_process_takes_over_from_a_killed_leader(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/x.sqlite3" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    code = f"from tests.maintenance.test_leader_processes import lead; lead({url!r})"
    follower = new_runner(url)
    (service,) = follower.services
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ran\n"
        follower.start()
        service.signals.wait(Signal.FOLLOWED, 2)
        assert service.signals.count(Signal.RAN) == 0
        process.kill()
    service.signals.wait(Signal.RAN)
    assert follower.stop(PATIENCE)
    other = open_store(url)
    assert StoreLeader(other, service.name, lease=3600.0).hold(), "a leader that stops releases its lease"
    other.close()
