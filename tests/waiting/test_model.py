"""The protocol of waiting.sql as a model, in which every interleaving of two writers and a waiter is tried.

The model's steps are what PostgreSQL does at once: a commit, the look of a statement at what is committed, taking the
lock of the listener's row or passing it by, the end of a writer's session. A wake-up is lost in a world in which
nothing can happen any more, while the waiter sleeps and a task that it waits for is stored by a writer that lives. The
order of the steps is that of ``writing.py``, of the statement ``ring`` and of ``listening.py``; test_races.py shows
that they are what really happens, and test_kinds.py what subscribers get in any sequence of waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

WAITER = 2

#: what who waits for the tasks 0 and 1 does. A ring takes it from ``sleep`` to ``woken``.
WAITS = (
    *("listen", "arm", "register 0", "register 1", "commit", "read", "sleep"),
    *("woken", "arm", "commit", "read", "sleep"),
)
#: listening already, and armed, it begins to wait for task 1 while it waits for task 0
BEGINS_AGAIN = (
    *("listen", "arm", "register 0", "commit", "read", "register 1", "commit", "read", "sleep"),
    *("woken", "arm", "commit", "read", "sleep"),
)
#: it gives up task 0, stops listening, and then waits for task 1
LISTENS_ANEW = (
    *("listen", "arm", "register 0", "commit", "read", "forget 0", "commit", "unlisten"),
    *("listen", "arm", "register 1", "commit", "read", "sleep"),
    *("woken", "arm", "commit", "read", "sleep"),
)

READS_FIRST = ("listen", "read", "arm", "register 0", "register 1", "commit", "sleep", *WAITS[WAITS.index("woken") :])
ARMS_LAST = (*WAITS[: WAITS.index("woken")], "woken", "read", "arm", "commit", "sleep")
LISTENS_LATE = ("arm", "register 0", "register 1", "commit", "read", "listen", *WAITS[WAITS.index("sleep") :])
ANEW_UNARMED = (*LISTENS_ANEW[:8], "listen", "register 1", *LISTENS_ANEW[11:])

#: what who stores the task of its own number does
STORES_THEN_LOOKS = ("store", "look", "lock", "ring")
LOOKS_INSIDE = ("look", "lock", "ring", "store")
#: it leaves the notification to the writer that has the row locked
LEAVES_IT_TO_OTHERS = ("store", "look", "lock or leave", "ring")


class World(NamedTuple):
    """What is committed on the server, and how far each of the three is."""

    stored: frozenset[int] = frozenset()
    registered: frozenset[int] = frozenset()
    is_armed: bool = False
    locked_by: int | None = None
    is_listening: bool = False
    is_rung: bool = False
    #: what the waiter's transaction will do when it commits
    pending: tuple[str, ...] = ()
    told: frozenset[int] = frozenset()
    #: writers whose session ended before they notified anybody
    dead: frozenset[int] = frozenset()
    #: what each does next: the two writers and the waiter
    at: tuple[int, int, int] = (0, 0, 0)

    def moved(self, who: int, to: int, **changes: object) -> World:
        at = tuple(to if number == who else place for number, place in enumerate(self.at))
        return self._replace(at=at, **changes)


class Model:
    """All that can happen with writers and a waiter that follow these programs."""

    def __init__(self, writer: tuple[str, ...], waiter: tuple[str, ...]) -> None:
        self.writer = writer
        self.waiter = waiter
        self.worlds: set[World] = set()
        self.lost: list[World] = []

    def explore(self, start: World) -> None:
        """Visit every world that can come of ``start``."""
        ahead = [start]
        while ahead:
            world = ahead.pop()
            if world in self.worlds:
                continue
            self.worlds.add(world)
            following = list(self.next(world))
            ahead += following
            if not following and world.registered & world.stored - world.told - world.dead:
                self.lost.append(world)

    def next(self, world: World) -> Iterator[World]:
        """Yield the worlds that may be next: one for each of the three that can go on."""
        for who in (0, 1):
            if world.at[who] < len(self.writer):
                yield self.write(world, who)
                # one of them may die at any moment; what it had not committed is undone
                if not world.dead:
                    locked_by = None if world.locked_by == who else world.locked_by
                    yield world.moved(who, len(self.writer), dead=frozenset({who}), locked_by=locked_by)
        yield from self.wait(world)

    def write(self, world: World, who: int) -> World:
        step, after = self.writer[world.at[who]], world.at[who] + 1
        end = len(self.writer)
        # where it goes on when there is nobody to ring: to what it has still to commit, or to the end
        without = end - 1 if self.writer[-1] == "store" else end
        if step == "store":
            return world.moved(who, after, stored=world.stored | {who})
        if step == "look":
            is_found = world.is_armed and who in world.registered
            return world.moved(who, after if is_found else without)
        if step == "lock or leave" and (world.locked_by is not None or not world.is_armed):
            return world.moved(who, without)
        if step.startswith("lock"):
            # SKIP LOCKED passes by a row that is locked; one that was disarmed since the look is left out
            is_free = world.locked_by is None and world.is_armed
            return world.moved(who, after, locked_by=who if is_free else world.locked_by)
        # to ring is to commit, and with it whatever the same transaction stores
        changes = {"is_armed": False, "locked_by": None} if world.locked_by == who else {}
        is_rung = world.is_rung or world.is_listening
        return world.moved(who, end, stored=world.stored | {who}, is_rung=is_rung, **changes)

    def wait(self, world: World) -> Iterator[World]:
        place = world.at[WAITER]
        if place >= len(self.waiter):
            return
        step, after = self.waiter[place], place + 1
        verb = step.partition(" ")[0]
        if verb == "listen":
            yield world.moved(WAITER, after, is_listening=True)
        elif verb == "unlisten":
            yield world.moved(WAITER, after, is_listening=False, is_rung=False)
        elif verb in ("register", "forget"):
            yield world.moved(WAITER, after, pending=(*world.pending, step))
        elif verb == "arm":
            if world.is_armed:
                yield world.moved(WAITER, after)
            elif world.locked_by is None:
                yield world.moved(WAITER, after, pending=(*world.pending, step), locked_by=WAITER)
        elif verb == "commit":
            yield self.commit(world, after)
        elif verb == "read":
            yield world.moved(WAITER, after, told=world.told | (world.stored & world.registered))
        elif verb == "sleep":
            if world.is_rung:
                yield world.moved(WAITER, self.waiter.index("woken"), is_rung=False)
        elif verb == "woken":
            yield world.moved(WAITER, after)

    @staticmethod
    def commit(world: World, after: int) -> World:
        registered = set(world.registered)
        for step in world.pending:
            verb, _, task = step.partition(" ")
            if verb == "register":
                registered.add(int(task))
            elif verb == "forget":
                registered.remove(int(task))
        return world.moved(
            WAITER,
            after,
            registered=frozenset(registered),
            is_armed=world.is_armed or "arm" in world.pending,
            locked_by=None if world.locked_by == WAITER else world.locked_by,
            pending=(),
        )


def explored(writer: tuple[str, ...], waiter: tuple[str, ...]) -> Model:
    model = Model(writer, waiter)
    for is_armed in (False, True):
        model.explore(World(is_armed=is_armed))
    return model


@pytest.mark.parametrize("waiter", [WAITS, BEGINS_AGAIN, LISTENS_ANEW], ids=["waits", "begins again", "listens anew"])
def test_no_interleaving_loses_a_wake_up(waiter: tuple[str, ...]) -> None:
    model = explored(STORES_THEN_LOOKS, waiter)
    assert model.lost == []
    assert len(model.worlds) > 200
    asleep = len(waiter) - 1
    assert any(world.at[WAITER] == asleep and world.told for world in model.worlds), "some are told after a ring"
    assert any(world.at[WAITER] == waiter.index("sleep") and world.told for world in model.worlds), "others at once"


@pytest.mark.parametrize(
    ("writer", "waiter"),
    [
        pytest.param(LEAVES_IT_TO_OTHERS, WAITS, id="leaves the notification to another writer"),
        pytest.param(LOOKS_INSIDE, WAITS, id="rings inside the transaction that stores"),
        pytest.param(STORES_THEN_LOOKS, READS_FIRST, id="reads before it registers"),
        pytest.param(STORES_THEN_LOOKS, ARMS_LAST, id="arms after it has read"),
        pytest.param(STORES_THEN_LOOKS, LISTENS_LATE, id="listens after it has registered"),
        pytest.param(STORES_THEN_LOOKS, ANEW_UNARMED, id="does not arm when it listens anew"),
    ],
)
def test_any_other_order_loses_some(writer: tuple[str, ...], waiter: tuple[str, ...]) -> None:
    assert explored(writer, waiter).lost
