"""Changing when stored tasks expire, as `rootcellar retention apply` does."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from rootcellar.stores.base import Store
from rootcellar.stores.expiring import NewExpiry, Postponable
from rootcellar.testing.helpers import NOW, able, record

DAY = timedelta(days=1)


@pytest.fixture
def postponable(sql_store: Store) -> Postponable:
    return able(sql_store, Postponable)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (NOW + DAY, NOW + 2 * DAY + timedelta(microseconds=1)),
        (NOW + DAY, None),
        (None, NOW + DAY),
        (None, NOW - DAY),
    ],
)
def test_expiry_is_changed(
    sql_store: Store, postponable: Postponable, before: datetime | None, after: datetime | None
) -> None:
    records = [record(expires_at=before, state=state) for state in ("SUCCESS", "FAILURE")]
    other = record(expires_at=before)
    for one in (*records, other):
        sql_store.put(one)
    changes = [NewExpiry(one, after) for one in records]
    assert postponable.set_expiries(changes) == 2
    found = sql_store.get_many([one.task_id for one in (*records, other)])
    assert found == {
        **{one.task_id: replace(one, expires_at=after) for one in records},
        other.task_id: other,
    }
    assert postponable.set_expiries(changes) == 0, "the tasks that were read are not there any more"
    assert postponable.set_expiries([]) == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"state": "SUCCESS"},
        {"done_at": NOW + timedelta(microseconds=1)},
        {"expires_at": NOW + 3 * DAY},
        {"expires_at": None},
    ],
    ids=str,
)
def test_task_that_was_stored_again_keeps_its_expiry(
    sql_store: Store, postponable: Postponable, changed: dict[str, Any]
) -> None:
    read = record(state="FAILURE", done_at=NOW, expires_at=NOW + DAY)
    sql_store.put(read)
    again = replace(read, **changed)
    sql_store.put(again)
    assert postponable.set_expiries([NewExpiry(read, NOW - DAY)]) == 0
    assert sql_store.get(read.task_id) == again


def test_deleted_task_does_not_come_back(sql_store: Store, postponable: Postponable) -> None:
    read = record(expires_at=NOW + DAY)
    sql_store.put(read)
    sql_store.delete([read.task_id])
    assert postponable.set_expiries([NewExpiry(read, None)]) == 0
    assert sql_store.get(read.task_id) is None
