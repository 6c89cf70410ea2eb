"""A migration in which everything goes wrong once in each phase: no answer is wrong, and no result is lost.

Four worker processes store results, and clients wait for them, read them again, forget some and run chords. In each
phase, a worker process is killed and another one is frozen, and the command of the migration is killed and run again.
Chords that begin in each phase end in each later one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rootcellar.migration.confirmations import processes_of
from rootcellar.migration.coordinator import set_rate
from rootcellar.stores.dual.phases import Phase
from tests.helpers import HEAVY
from tests.migration.live.application import STEPS, Setup
from tests.migration.live.scene import LEASE, PAUSE, Scene
from tests.servers import PostgresServer, RedisServer

OLD = 20_000 if HEAVY else 300


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the migration, and what happens meanwhile.

    Attributes:
        name: the command.
        to: the phase that it ends in.
        killed_in: the phase in which the command is killed: while it reads the results, or while it waits for the
            process that is frozen.
        without: whether the operator goes on without the process that is frozen.
    """

    name: str
    to: Phase
    killed_in: Phase
    without: bool = False


#: the way there; the command is killed in each phase
STRAIGHT = (
    Step("start", Phase.DUAL, killed_in=Phase.PREPARED),
    Step("advance", Phase.SWITCHING, killed_in=Phase.SWITCHING),
    Step("advance", Phase.TARGET_FIRST, killed_in=Phase.SWITCHING),
    Step("advance", Phase.TARGET_ONLY, killed_in=Phase.TARGET_FIRST),
    Step("retire", Phase.RETIRED, killed_in=Phase.TARGET_ONLY),
)
#: there, back, and there again
WITH_ROLLBACK = (
    *STRAIGHT[:3],
    Step("back", Phase.DUAL, killed_in=Phase.SWITCHING),
    Step("advance", Phase.SWITCHING, killed_in=Phase.SWITCHING),
    Step("advance", Phase.TARGET_FIRST, killed_in=Phase.TARGET_FIRST, without=True),
    *STRAIGHT[3:],
)


def run(scene: Scene, path: Sequence[Step]) -> None:
    """Migrate an application from the first phase to the last one."""
    scene.wait_for_traffic()
    for visit, step in enumerate(path):
        # the source is left only when no chord is open in it
        scene.begin_chords(visit, len(path) - (0 if step.to is Phase.RETIRED else 1))
        scene.end_chords(visit)
        make(scene, step)
        scene.wait_for_traffic()
    scene.end_chords(len(path))
    scene.stop()
    scene.check_store(scene.pair.target.store, scene.old.values())
    scene.check_bodies()
    assert {phase.name for phase in Phase if phase is not Phase.RETIRED} <= scene.commands_killed.keys()
    scene.say()


def make(scene: Scene, step: Step) -> None:
    """Make a step: begin it, kill it, and run it again."""
    with scene.one_frozen_and_one_killed() as frozen:
        kill(scene, step, lambda: is_in(scene, step.killed_in, frozen))
        if step.without:
            again(scene, step, without=(name_of(scene, frozen),))
    if step.name == "start":
        kill(scene, step, lambda: is_in(scene, Phase.DUAL))
    if not step.without:
        again(scene, step)


def kill(scene: Scene, step: Step, is_there: Callable[[], bool]) -> None:
    """Begin a step, and kill the command when it is there."""
    # slow only where it is killed while it reads: new results come in faster than this
    migrator = scene.fork_migrator(step.name, rate=None if step.killed_in is step.to else OLD / 4)
    scene.wait_until(is_there, f"{step.name} is where it is killed")
    scene.kill(migrator)
    set_rate(scene.coordinator().book, None)


def is_in(scene: Scene, phase: Phase, frozen: int | None = None) -> bool:
    """Return whether a command reads the results in a phase, or waits there for the process that is frozen."""
    state = scene.state()
    if state is None or state.phase is not phase:
        return False
    work = state.work
    is_in_pass = work is not None and work.epoch == state.epoch and bool(work.done) and work.finished_at is None
    return is_in_pass or (frozen is not None and frozen in scene.silent())


def again(scene: Scene, step: Step, **options: Any) -> None:
    """Run a command again, and let it end."""
    STEPS[step.name](scene.coordinator(**options))
    state = scene.state()
    assert state is not None
    assert state.phase is step.to


def name_of(scene: Scene, pid: int) -> str:
    (found,) = [each.name for each in processes_of(scene.pair) if each.pid == pid]
    return found


@dataclass(frozen=True, slots=True)
class Ends:
    """The URLs of a migration, and the transport options of the source."""

    source: str
    target: str
    options: Mapping[str, str] = field(default_factory=dict)


def redis_to_postgres(redis: RedisServer, postgres: Callable[[], str], folder: Path) -> Ends:
    return Ends(redis.database_url(2), postgres())


def postgres_to_redis(redis: RedisServer, postgres: Callable[[], str], folder: Path) -> Ends:
    return Ends(postgres(), redis.database_url(2))


def sqlite_to_postgres(redis: RedisServer, postgres: Callable[[], str], folder: Path) -> Ends:
    return Ends(f"sqlite:///{folder}/results.sqlite3", postgres())


def hybrid_to_postgres(redis: RedisServer, postgres: Callable[[], str], folder: Path) -> Ends:
    return Ends("hybrid://", postgres(), {"durable_url": postgres(), "cache_url": redis.database_url(2)})


@pytest.fixture
def new_database(postgres_server: PostgresServer) -> Iterator[Callable[[], str]]:
    with ExitStack() as stack:

        def create() -> str:
            url = postgres_server.create_database()
            stack.callback(postgres_server.drop_database, url)
            return url

        yield create


#: the migrations; the short form has two of them, and goes back in one
ENDS = (redis_to_postgres, postgres_to_redis, *((sqlite_to_postgres, hybrid_to_postgres) if HEAVY else ()))


@pytest.mark.timeout(1800 if HEAVY else 180)
@pytest.mark.parametrize("ends", ENDS, ids=lambda ends: ends.__name__)
def test_application_is_migrated_while_everything_fails_once_in_each_phase(
    ends: Callable[..., Ends], redis_server: RedisServer, new_database: Callable[[], str], tmp_path: Path
) -> None:
    redis_server.flush()
    urls = ends(redis_server, new_database, tmp_path)
    setup = Setup(
        broker=redis_server.database_url(7),
        source=urls.source,
        options=urls.options,
        target=urls.target,
        log=tmp_path / "worker.log",
        old=OLD,
        lease=LEASE,
        pause=PAUSE,
    )
    scene = Scene(setup, seed=13)
    try:
        run(scene, WITH_ROLLBACK if HEAVY or ends is redis_to_postgres else STRAIGHT)
    finally:
        scene.close()
