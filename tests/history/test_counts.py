"""The counts beside the rows equal an account row by row, whatever happens to the rows and to the passes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from rootcellar.stores.sql import by_date
from rootcellar.stores.sql.by_date import ByDate
from tests.history.counted import Actor, assert_right, at_time, roll_all
from tests.history.stores import SQL, opened


@pytest.fixture(params=SQL, ids=lambda store: store.name)
def store(request: pytest.FixtureRequest) -> Iterator[Any]:
    with opened(request.param, request) as store:
        yield store


@pytest.fixture(autouse=True)
def always_recounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count the last day again in each pass, where no marker tells what has changed."""
    monkeypatch.setattr(by_date, "RECOUNT_INTERVAL", timedelta(0))


def test_counts_equal_an_account_after_random_changes(store: Any) -> None:
    actor = Actor(store, 1, datetime.now(timezone.utc))
    for _ in range(12):
        for _ in range(15):
            actor.act()
        roll_all(store)
        assert_right(store, actor.account)


def test_counts_stay_right_while_time_passes(store: Any) -> None:
    actor = Actor(store, 2, datetime.now(timezone.utc), timedelta(hours=30))
    with at_time(store, lambda: actor.now):
        for hours in (0, 0.2, 1, 3, 20, 30, 24 * 40, 24 * 80):
            actor.now += timedelta(hours=hours)
            for _ in range(25):
                actor.act()
            if isinstance(store._counts, ByDate):
                store.rebuild_counts()
            roll_all(store)
            assert_right(store, actor.account, (None, "day"))
