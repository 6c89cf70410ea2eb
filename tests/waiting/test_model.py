"""The protocol of waiting.sql as a model, in which every interleaving of two writers and a waiter is tried.

The model's steps are atomic in PostgreSQL: a commit, a statement's read of committed rows, locking the listener's row
or skipping it, the end of a writer's session. A notification is lost in a world in which no step is left, while the
waiter sleeps and a living writer has stored a task that it waits for. The steps have the order of ``group_commit.py``,
``waiting.sql`` and ``notify.py``. test_races.py shows that the real steps are the same, and test_kinds.py what
subscribers get in any sequence of waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

WAITER = 2

#: the steps of a waiter for the tasks 0 and 1. A notification moves it from ``sleep`` to ``woken``.
WAITS = (
    *("listen", "arm", "register 0", "register 1", "commit", "read", "sleep"),
    *("woken", "arm", "commit", "read", "sleep"),
)
#: it listens and is armed for task 0, and then begins to wait for task 1
BEGINS_AGAIN = (
    *("listen", "arm", "register 0", "commit", "read", "register 1", "commit", "read", "sleep"),
    *("woken", "arm", "commit", "read", "sleep"),
)
#: it cancels task 0, stops listening, and then waits for task 1
LISTENS_AGAIN = (
    *("listen", "arm", "register 0", "commit", "read", "forget 0", "commit", "unlisten"),
    *("listen", "arm", "register 1", "commit", "read", "sleep"),
    *("woken", "arm", "commit", "read", "sleep"),
)

READS_FIRST = ("listen", "read", "arm", "register 0", "register 1", "commit", "sleep", *WAITS[WAITS.index("woken") :])
ARMS_LAST = (*WAITS[: WAITS.index("woken")], "woken", "read", "arm", "commit", "sleep")
LISTENS_LATE = ("arm", "register 0", "register 1", "commit", "read", "listen", *WAITS[WAITS.index("sleep") :])
AGAIN_UNARMED = (*LISTENS_AGAIN[:8], "listen", "register 1", *LISTENS_AGAIN[11:])

#: the steps of a writer, which stores the task of its own number
STORES_THEN_READS = ("store", "find", "lock", "notify")
READS_INSIDE = ("find", "lock", "notify", "store")
#: it leaves the notification to the writer that has the row locked
LEAVES_IT_TO_OTHERS = ("store", "find", "lock or leave", "notify")


class World(NamedTuple):
    """The committed rows of the server, and the next step of each of the three."""

    stored: frozenset[int] = frozenset()
    registered: frozenset[int] = frozenset()
    is_armed: bool = False
    locked_by: int | None = None
    is_listening: bool = False
    is_notified: bool = False
    #: the changes that the waiter's transaction commits
    pending: tuple[str, ...] = ()
    read: frozenset[int] = frozenset()
    #: writers whose session ended before their notification
    dead: frozenset[int] = frozenset()
    #: the next step of each: the two writers and the waiter
    at: tuple[int, int, int] = (0, 0, 0)

    def moved(self, actor: int, to: int, **changes: object) -> World:
        at = tuple(to if number == actor else place for number, place in enumerate(self.at))
        return self._replace(at=at, **changes)


class Model:
    """All worlds that writers and a waiter with these programs can reach."""

    def __init__(self, writer: tuple[str, ...], waiter: tuple[str, ...]) -> None:
        self.writer = writer
        self.waiter = waiter
        self.worlds: set[World] = set()
        self.lost: list[World] = []

    def explore(self, start: World) -> None:
        """Visit every world that can follow ``start``."""
        ahead = [start]
        while ahead:
            world = ahead.pop()
            if world in self.worlds:
                continue
            self.worlds.add(world)
            following = list(self.next(world))
            ahead += following
            if not following and world.registered & world.stored - world.read - world.dead:
                self.lost.append(world)

    def next(self, world: World) -> Iterator[World]:
        """Yield the next worlds: one for each of the three that has a step."""
        for actor in (0, 1):
            if world.at[actor] < len(self.writer):
                yield self.write(world, actor)
                # a writer may die at any moment; its uncommitted changes are undone
                if not world.dead:
                    locked_by = None if world.locked_by == actor else world.locked_by
                    yield world.moved(actor, len(self.writer), dead=frozenset({actor}), locked_by=locked_by)
        yield from self.wait(world)

    def write(self, world: World, actor: int) -> World:
        step, after = self.writer[world.at[actor]], world.at[actor] + 1
        end = len(self.writer)
        # its next step if there is no waiter to notify: its own commit, or the end
        without = end - 1 if self.writer[-1] == "store" else end
        if step == "store":
            return world.moved(actor, after, stored=world.stored | {actor})
        if step == "find":
            is_found = world.is_armed and actor in world.registered
            return world.moved(actor, after if is_found else without)
        if step == "lock or leave" and (world.locked_by is not None or not world.is_armed):
            return world.moved(actor, without)
        if step.startswith("lock"):
            # SKIP LOCKED skips a locked row; a row that was disarmed since the read is skipped too
            is_free = world.locked_by is None and world.is_armed
            return world.moved(actor, after, locked_by=actor if is_free else world.locked_by)
        # a notification is sent by a commit, together with the records of the same transaction
        changes = {"is_armed": False, "locked_by": None} if world.locked_by == actor else {}
        is_notified = world.is_notified or world.is_listening
        return world.moved(actor, end, stored=world.stored | {actor}, is_notified=is_notified, **changes)

    def wait(self, world: World) -> Iterator[World]:
        place = world.at[WAITER]
        if place >= len(self.waiter):
            return
        step, after = self.waiter[place], place + 1
        verb = step.partition(" ")[0]
        if verb == "listen":
            yield world.moved(WAITER, after, is_listening=True)
        elif verb == "unlisten":
            yield world.moved(WAITER, after, is_listening=False, is_notified=False)
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
            yield world.moved(WAITER, after, read=world.read | (world.stored & world.registered))
        elif verb == "sleep":
            if world.is_notified:
                yield world.moved(WAITER, self.waiter.index("woken"), is_notified=False)
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


@pytest.mark.parametrize("waiter", [WAITS, BEGINS_AGAIN, LISTENS_AGAIN], ids=["waits", "begins again", "listens again"])
def test_no_interleaving_loses_a_notification(waiter: tuple[str, ...]) -> None:
    model = explored(STORES_THEN_READS, waiter)
    assert model.lost == []
    assert len(model.worlds) > 200
    asleep = len(waiter) - 1
    assert any(world.at[WAITER] == asleep and world.read for world in model.worlds), (
        "some results are read after a notification"
    )
    assert any(world.at[WAITER] == waiter.index("sleep") and world.read for world in model.worlds), (
        "others are read at once"
    )


@pytest.mark.parametrize(
    ("writer", "waiter"),
    [
        pytest.param(LEAVES_IT_TO_OTHERS, WAITS, id="leaves the notification to another writer"),
        pytest.param(READS_INSIDE, WAITS, id="notifies in the transaction that stores"),
        pytest.param(STORES_THEN_READS, READS_FIRST, id="reads before it registers"),
        pytest.param(STORES_THEN_READS, ARMS_LAST, id="arms after it has read"),
        pytest.param(STORES_THEN_READS, LISTENS_LATE, id="listens after it has registered"),
        pytest.param(STORES_THEN_READS, AGAIN_UNARMED, id="does not arm when it listens again"),
    ],
)
def test_other_order_loses_a_notification(writer: tuple[str, ...], waiter: tuple[str, ...]) -> None:
    assert explored(writer, waiter).lost
