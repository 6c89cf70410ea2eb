"""Holds of results in the older table."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta, timezone

import pytest

from rootcellar.errors import ResultHeld
from rootcellar.history.filters import Clock
from rootcellar.history.holds import Holds, place_hold
from rootcellar.payloads import codec_of
from rootcellar.stores import Store
from rootcellar.stores.holding import Holding, Removed
from rootcellar.stores.older import Older
from rootcellar.stores.search import MoreHolds
from rootcellar.testing.helpers import able
from tests.older.tables import enable, finished, move_all, now, opened, put_all, rows_in


@pytest.fixture
def both(postgres_url: str) -> Iterator[tuple[Store, Older]]:
    with opened(postgres_url) as (store, older):
        enable(store, older)
        yield store, older


def hold(store: Store, text: str) -> int:
    return place_hold(store, text, Clock(now(), timezone.utc), reason="audit", by="anna").id


def test_held_result_in_the_older_table_is_not_forgotten(both: tuple[Store, Older], postgres_url: str) -> None:
    store, older = both
    kept, free, live = put_all(
        store,
        [
            finished(timedelta(days=5), queue="low"),
            finished(timedelta(days=5)),
            finished(timedelta(minutes=1), queue="low"),
        ],
    )
    assert move_all(older) == 2
    number = hold(store, "queue:low")
    holds = Holds(store, codec_of({}))
    with pytest.raises(ResultHeld, match=f"hold {number}"):
        holds.forget([kept.task_id])
    assert holds.delete([kept.task_id, free.task_id, live.task_id]) == Removed(
        1, frozenset({kept.task_id, live.task_id})
    )
    assert rows_in(postgres_url, "celery_taskmeta_older").keys() == {kept.task_id}
    able(store, Holding).release_hold(number, "anna", now())
    assert holds.forget([kept.task_id, live.task_id]) == 2


def test_new_hold_spares_a_result_in_the_older_table(both: tuple[Store, Older]) -> None:
    store, older = both
    (kept,) = put_all(store, [finished(timedelta(days=5))])
    assert move_all(older) == 1
    hold(store, f"id:{kept.task_id}")
    # as for a process that read the holds before
    assert able(store, Holding).delete_spared([kept.task_id], MoreHolds(0)) == Removed(0, frozenset({kept.task_id}))
    assert store.get(kept.task_id) is not None
