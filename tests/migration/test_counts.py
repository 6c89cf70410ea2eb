"""The counts beside the results stay right when results are mirrored, copied and buried."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from rootcellar.records import TaskRecord
from rootcellar.stores.mirroring import Mirrored
from rootcellar.stores.sql import by_date
from rootcellar.testing.helpers import able, json_payload
from tests.helpers import HEAVY
from tests.history.counted import Actor, assert_right, roll_all
from tests.history.stores import SQL, opened


@pytest.fixture(params=SQL, ids=lambda store: store.name)
def store(request: pytest.FixtureRequest) -> Iterator[Any]:
    with opened(request.param, request) as store:
        if store.ability(Mirrored) is None:
            pytest.skip("this store cannot be part of a migration")
        yield store


class _MigratingActor(Actor):
    """Does what a migration does."""

    def act(self) -> None:
        choice = self.random.random()
        if choice < 0.6 or not self.account.rows:
            super().act()
        elif choice < 0.9:
            self._bring(self._some() if self.random.random() < 0.5 else f"new {self.random.getrandbits(64)}")
        else:
            self._bury([self._some(), self._some()])

    def _bring(self, task_id: str) -> None:
        """Mirror, settle or copy a record, new or over an existing one."""
        mirrored = able(self.store, Mirrored)
        state = self.random.choice(("SUCCESS", "FAILURE"))
        done = self.moment().replace(microsecond=0)
        one = TaskRecord(
            task_id=task_id,
            state=state,
            result=json_payload(self.random.random()),
            name=self.random.choice(("shop.pay", "shop.ship")),
            started_at=done - timedelta(seconds=3),
            done_at=done,
            failure_group=9 if state == "FAILURE" else None,
        )
        verb = self.random.choice(("mirror", "settle", "copy", "newer"))
        if verb == "mirror":
            if not mirrored.mirror(one).buried:
                self.account.put(one)
        elif verb == "settle":
            if not mirrored.settle(replace(one, state="SUCCESS", failure_group=None)).buried:
                self.account.rows[task_id] = replace(one, state="SUCCESS", failure_group=None)
        elif task_id in mirrored.copy([one], newer_wins=verb == "newer").written:
            self.account.rows[task_id] = one

    def _bury(self, ids: list[str]) -> None:
        mirrored = able(self.store, Mirrored)
        if self.random.random() < 0.5:
            mirrored.bury(ids)
        else:
            assert mirrored.bury_same(list(self.store.get_many(ids).values())) == len(set(ids))
        for task_id in ids:
            self.account.delete(task_id)


@pytest.mark.parametrize("seed", range(1, 40 if HEAVY else 2))
def test_counts_equal_an_account_after_a_random_migration(
    store: Any, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # count the last day again in each pass, where no marker shows what has changed
    monkeypatch.setattr(by_date, "RECOUNT_INTERVAL", timedelta(0))
    actor = _MigratingActor(store, seed, datetime.now(timezone.utc))
    for _ in range(8):
        for _ in range(15):
            actor.act()
        roll_all(store)
        assert_right(store, actor.account)


@pytest.mark.parametrize("verb", ["mirror", "settle", "copy"])
def test_old_results_that_are_brought_later_are_counted(store: Any, verb: str) -> None:
    """Also those that replace a result of another day."""
    actor = _MigratingActor(store, 1, datetime.now(timezone.utc).replace(microsecond=0))
    for number in range(12):
        failed = TaskRecord(task_id=f"task-{number}", state="FAILURE", done_at=actor.now - timedelta(days=9))
        store.put(failed)
        actor.account.put(failed)
    roll_all(store)
    assert_right(store, actor.account)
    mirrored = able(store, Mirrored)
    for number in range(0, 24, 2):
        done = actor.now - timedelta(days=3, hours=number)
        one = TaskRecord(task_id=f"task-{number}", state="SUCCESS", done_at=done)
        if verb == "copy":
            mirrored.copy([one])
        else:
            getattr(mirrored, verb)(one)
        actor.account.rows[one.task_id] = one
    assert_right(store, actor.account)
    roll_all(store)
    assert_right(store, actor.account)
