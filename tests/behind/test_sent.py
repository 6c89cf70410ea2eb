"""Write-behind: a task that was only sent never replaces a record that is moved already, nor one that was deleted."""

from __future__ import annotations

import redis

from rootcellar.records import SENT, TaskRecord
from rootcellar.stores import Store
from rootcellar.stores.base import RecordsSent
from rootcellar.stores.hybrid import WriteBehindStore
from tests.helpers import now, record


def sent(task_id: str) -> TaskRecord:
    return TaskRecord(task_id=task_id, state=SENT, name="shop.pack", sent_at=now())


def test_sent_task_is_moved_and_then_replaced(behind: WriteBehindStore, durable: Store) -> None:
    behind.put_sent([sent("a"), sent("b")])
    assert behind.drain_all() == 2
    assert {found.state for found in durable.get_many(["a", "b"]).values()} == {SENT}
    behind.put(record("a", state="FAILURE"))
    behind.drain_all()
    found = durable.get("a")
    assert found is not None
    assert (found.state, found.name) == ("FAILURE", "shop.pack")


def test_record_that_was_moved_and_evicted_is_not_replaced(
    behind: WriteBehindStore, durable: Store, client: redis.Redis
) -> None:
    failed, succeeded = record("failed", state="FAILURE"), record("succeeded")
    for one in (failed, succeeded):
        behind.put(one)
    behind.drain_all()
    for key in client.keys("*failed") + client.keys("*succeeded"):
        client.delete(key)
    behind.put_sent([sent("failed"), sent("succeeded"), sent("new")])
    assert behind.drain_all() == 1
    assert durable.get_many(["failed", "succeeded"]) == {"failed": failed, "succeeded": succeeded}
    assert behind.get("failed") == failed
    assert durable.get("new") is not None


def test_record_that_comes_to_redis_meanwhile_is_not_replaced(behind: WriteBehindStore) -> None:
    """The client has found no record, and then a worker stores one."""
    front = behind.front.ability(RecordsSent)
    assert front is not None
    failed, deleted = record("failed", state="FAILURE"), record("deleted", state="FAILURE")
    behind.put(failed)
    behind.put(deleted)
    behind.delete(["deleted"])
    front.put_sent([sent("failed"), sent("deleted"), sent("new")])
    assert behind.get_many(["failed", "deleted"]) == {"failed": failed}
    assert behind.get("new") is not None


def test_deleted_task_does_not_come_back(behind: WriteBehindStore, durable: Store) -> None:
    behind.put(record("a", state="FAILURE"))
    behind.delete(["a"])
    behind.put_sent([sent("a")])
    assert behind.get("a") is None
    behind.drain_all()
    assert durable.get("a") is None
