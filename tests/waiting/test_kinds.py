"""A watcher's notifications, compared with a model, in any order of subscribing, cancelling and pausing.

Clients wait for tasks in three ways, one after the other and together. Only a notification wakes the watcher: a result
that does not come promptly never comes.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from rootcellar.records import TaskRecord
from rootcellar.stores import Store
from rootcellar.stores.postgres import notify
from rootcellar.stores.redis.servers import Servers
from rootcellar.stores.watching import NotifyOn, PollingWatcher, Subscription
from tests.helpers import HEAVY, wait_until
from tests.seeds import new_random
from tests.waiting.helpers import Inbox, no_safety_net, opened, record

#: seconds within which every notification must come; the next read without a notification is an hour away
PROMPTLY = 10.0
SEQUENCES = 3_000 if HEAVY else 150
STEPS = 12

WAYS = list(NotifyOn)
PAUSES = ["no pause", "a short pause", "a long pause"]


@pytest.fixture(params=["postgres", "redis", "sqlite"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store of each kind of watcher: notified by PostgreSQL, notified by Redis, and polling."""
    no_safety_net(monkeypatch)
    monkeypatch.setattr(Servers, "safety_read_seconds", 3600.0)
    # the watcher does not stop listening during a short pause
    monkeypatch.setattr(notify, "LISTEN_LINGER", 3600.0)
    if request.param == "sqlite":
        url = f"sqlite:///{request.getfixturevalue('tmp_path')}/results.sqlite3"
    else:
        url = request.getfixturevalue(f"{request.param}_url")
    with opened(url) as store:
        yield store


@dataclass
class Waiter:
    """One subscription to one task."""

    task_id: str
    notify_on: NotifyOn
    inbox: Inbox = field(default_factory=Inbox)
    subscription: Subscription | None = None


class Run:
    """Runs the steps of a sequence on a store, and checks the notifications after each step."""

    def __init__(self, store: Store, patch: pytest.MonkeyPatch) -> None:
        self._store = store
        self._patch = patch
        self._watcher: Any = store.watcher() if hasattr(store, "watcher") else polling_watcher(store)
        self._states: dict[str, str] = {}
        self._waiters: list[Waiter] = []

    def subscribe(self, task_id: str, notify_on: NotifyOn) -> None:
        waiter = Waiter(task_id, notify_on)
        self._waiters.append(waiter)
        waiter.subscription = self._watcher.subscribe([task_id], waiter.inbox.deliver, notify_on)
        if state := self._states.get(task_id):
            self._expect(waiter, state)

    def cancel(self, task_id: str) -> None:
        """Cancel the oldest wait for the task, if any."""
        for waiter in [one for one in self._waiters if one.task_id == task_id][:1]:
            assert waiter.subscription is not None
            waiter.subscription.cancel()
            self._waiters.remove(waiter)

    def put(self, task_id: str, state: str) -> None:
        if self._states.get(task_id) == "SUCCESS":
            return
        is_new = self._states.get(task_id) != state
        self._states[task_id] = state
        self._store.put(record(task_id, state=state))
        for waiter in [one for one in self._waiters if one.task_id == task_id]:
            if is_new:
                self._expect(waiter, state)

    def pause(self, how: str) -> None:
        """Wait until the watcher has removed cancelled waiters; in a long pause, also from the server."""
        if how == "no pause" or self._waiters:
            return
        wait_until(lambda: not self._watcher.awaited_ids(), "no subscription")
        if how == "a long pause":
            with self._patch.context() as patch:
                patch.setattr(notify, "LISTEN_LINGER", 0.0)
                self._watcher._wake()
                wait_until(self._is_server_updated, "an updated server")

    def _is_server_updated(self) -> bool:
        watcher = self._watcher
        # a wait that is shorter than the watcher's loop leaves nothing on the server
        return not watcher._table.removed or watcher._thread is None or not getattr(watcher, "_is_listening", True)

    def end(self) -> None:
        for waiter in list(self._waiters):
            assert waiter.inbox.is_empty(), f"{waiter} got too many notifications"
            self.cancel(waiter.task_id)
        self.pause("a short pause")

    def _expect(self, waiter: Waiter, state: str) -> None:
        """Wait until a waiter gets a state, if it subscribed to it."""
        is_ready = state == "SUCCESS"
        if not (is_ready or waiter.notify_on is NotifyOn.CHANGES):
            return
        notification = waiter.inbox.take_one(PROMPTLY)
        while (
            isinstance(notification, TaskRecord)
            and notification.state != state
            and waiter.notify_on is NotifyOn.CHANGES
        ):
            # the notification of an earlier state came late
            notification = waiter.inbox.take_one(PROMPTLY)
        if waiter.notify_on is NotifyOn.ID:
            assert notification == waiter.task_id
        else:
            assert isinstance(notification, TaskRecord)
            assert (notification.task_id, notification.state) == (waiter.task_id, state)
        if is_ready:
            self._waiters.remove(waiter)


def polling_watcher(store: Store) -> Any:
    return PollingWatcher(store.get_many)


ENDS = ["cancelled", "notified"]
ORDERS = ["ready before the second wait", "ready after it"]


@pytest.mark.parametrize("pause", PAUSES)
def test_second_wait_is_notified_after_any_first_one(store: Store, monkeypatch: pytest.MonkeyPatch, pause: str) -> None:
    """One wait for a task ends, then nothing waits for a moment, and another wait begins: every combination."""
    run = Run(store, monkeypatch)
    for number, (first, second, end, order) in enumerate(itertools.product(WAYS, WAYS, ENDS, ORDERS)):
        task_id = f"task {number} of {pause}: {first.name}, {second.name}, {end}, {order}"
        run.subscribe(task_id, first)
        if end == "notified":
            run.put(task_id, "SUCCESS")
        else:
            run.cancel(task_id)
        run.pause(pause)
        if order == "ready before the second wait":
            run.put(task_id, "SUCCESS")
        run.subscribe(task_id, second)
        run.put(task_id, "SUCCESS")
        run.end()


def test_any_sequence_of_waits_gets_what_the_model_says(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences over two tasks and three ways of waiting, with pauses between."""
    dice = new_random("kinds")
    run = Run(store, monkeypatch)
    for number in range(SEQUENCES):
        steps = [random_step(dice, [f"{number} a", f"{number} b"]) for _ in range(STEPS)]
        try:
            for verb, *args in steps:
                getattr(run, verb)(*args)
            run.end()
        except AssertionError as failed:
            pytest.fail(f"sequence {number}: {failed}\n{steps}")


def random_step(dice: random.Random, tasks: list[str]) -> tuple[Any, ...]:
    task_id = dice.choice(tasks)
    # most steps begin or cancel a wait
    verb = dice.choices(["subscribe", "cancel", "start", "succeed", "pause"], [5, 4, 2, 1, 3])[0]
    if verb == "subscribe":
        return "subscribe", task_id, dice.choice(WAYS)
    if verb == "pause":
        return "pause", dice.choice(PAUSES)
    if verb == "cancel":
        return "cancel", task_id
    return "put", task_id, "STARTED" if verb == "start" else "SUCCESS"
