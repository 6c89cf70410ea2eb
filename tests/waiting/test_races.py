"""No notification is lost, whether the waiter or the result comes first, in thousands of rounds.

Each round has one waiter, which only its own notification wakes, so a lost notification stays lost.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from contextlib import ExitStack

import pytest

from rootcellar.stores import Store
from rootcellar.stores.postgres import notify
from tests.helpers import HEAVY
from tests.seeds import new_random
from tests.waiting.helpers import Inbox, Other, no_safety_net, opened, opened_there, put_at, spin_until

ROUNDS = 40_000 if HEAVY else 2_000
#: seconds within which both sides come, in any order
SPREAD = 0.002
#: seconds that the other processes need to get their job
AHEAD = 0.0005


@pytest.mark.parametrize("listens_again", [False, True])
@pytest.mark.timeout(900 if HEAVY else 180)
def test_no_notification_is_lost(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, listens_again: bool
) -> None:
    no_safety_net(monkeypatch)
    rounds = ROUNDS // 2
    if listens_again:
        # the watcher stops listening, and listens again, between most rounds
        monkeypatch.setattr(notify, "LISTEN_LINGER", SPREAD)
    with ExitStack() as stack:
        race = Race(stack, postgres_url, new_random("races"))
        run = race.run_giving_up if listens_again else race.run
        for number in range(rounds):
            try:
                run(str(number))
            except AssertionError as lost:
                pytest.fail(f"round {number}: {lost}")
    assert "Polling" not in caplog.text, "it was notified and did not poll"
    assert min(race.came_first.values()) > rounds / 100, f"each came first sometimes: {race.came_first}"


class Race:
    """A store that waits, two processes that store, and counts of which came first."""

    def __init__(self, stack: ExitStack, url: str, dice: random.Random) -> None:
        self._store: Store = stack.enter_context(opened(url))
        self._others = [stack.enter_context(Other(opened_there, url)) for _ in range(2)]
        self._dice = dice
        self.came_first: Counter[str] = Counter()

    def run(self, name: str) -> None:
        """Wait for two tasks at the moment when two other processes store them."""
        ids = [f"{name}-{who}" for who in range(len(self._others))]
        self._start(ids, [self._some_time(), self._some_time()])
        inbox, began = Inbox(), time.monotonic()
        self._store.watcher().subscribe(ids, inbox.deliver)
        assert sorted(inbox.take(len(ids), timeout=30)) == ids
        self._note(began, *(other.end() for other in self._others))

    def run_giving_up(self, name: str) -> None:
        """Wait for two tasks, cancel one, and let it be stored when the watcher is about to stop listening."""
        ids = [f"{name}-kept", f"{name}-given-up"]
        self._start(ids, [self._some_time(), SPREAD + self._some_time() + self._some_time()])
        inbox, began = Inbox(), time.monotonic()
        self._store.watcher().subscribe(ids[:1], inbox.deliver)
        given_up = self._store.watcher().subscribe(ids[1:], Inbox().deliver)
        inbox.take(1, timeout=30)
        given_up.cancel()
        self._note(began, *(other.end() for other in self._others))

    def _start(self, ids: list[str], moments: list[float]) -> None:
        start = time.monotonic() + AHEAD
        for task_id, moment, other in zip(ids, moments, self._others, strict=True):
            other.begin(put_at, task_id, start + moment)
        spin_until(start + 1.5 * self._some_time())

    def _some_time(self) -> float:
        return self._dice.uniform(0, SPREAD)

    def _note(self, began: float, stored: tuple[float, float], _: object) -> None:
        if stored[1] < began:
            self.came_first["the result"] += 1
        elif stored[0] > began + SPREAD / 4:
            self.came_first["the waiter"] += 1
        else:
            self.came_first["neither"] += 1
