"""Tasks that were only sent: their records never replace others, and are replaced by every later state."""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from rootcellar.errors import RootcellarError
from rootcellar.records import Payload, TaskRecord
from rootcellar.stores.base import RecordsSent, Store
from rootcellar.testing.helpers import (
    NOW,
    able,
    full_record,
    in_threads,
    json_payload,
    new_id,
    record,
    wait_until,
)


def sent(task_id: str | None = None, **given: Any) -> TaskRecord:
    """Return the record of a task that was sent: it has neither a worker nor a time of its start."""
    values: dict[str, Any] = {"state": "SENT", "result": None, "name": "shop.pack", "queue": "parcels", "sent_at": NOW}
    return TaskRecord(task_id=task_id or new_id(), **{**values, **given})


#: records that may be there before the client stores SENT
LATER: dict[str, dict[str, Any]] = {
    "started": {"state": "STARTED", "started_at": NOW, "worker": "celery@host"},
    "progress": {"state": "PROGRESS", "result": json_payload({"done": 3})},
    "retried": {"state": "RETRY", "retries": 1, "traceback": "Traceback …"},
    "succeeded": {"state": "SUCCESS", "result": json_payload(42), "done_at": NOW},
    "failed": {"state": "FAILURE", "result": json_payload({"exc_type": "ValueError"}), "done_at": NOW},
    "revoked": {"state": "REVOKED", "done_at": NOW},
    "sent": {"state": "SENT", "sent_at": NOW - timedelta(minutes=1)},
}


class TestSent:
    """Every store of rootcellar can store tasks that were sent; another one need not."""

    @pytest.fixture(autouse=True)
    def _only_if_able(self, store: Store) -> None:
        if store.ability(RecordsSent) is None:
            pytest.skip("this store cannot store tasks that were only sent")

    def test_sent_task_has_every_field(self, store: Store) -> None:
        records = [sent(), full_record(state="SENT"), sent(args=Payload(b"[NaN]"), kwargs=json_payload({"a": "ü"}))]
        able(store, RecordsSent).put_sent(records)
        assert store.get_many([one.task_id for one in records]) == {one.task_id: one for one in records}
        assert store.get(records[0].task_id) == records[0]

    def test_no_sent_task_is_no_error(self, store: Store) -> None:
        able(store, RecordsSent).put_sent([])

    @pytest.mark.parametrize("later", LATER)
    def test_sent_task_never_replaces_a_record(self, store: Store, later: str) -> None:
        there, new = record(**{"result": None, "done_at": None, **LATER[later]}), sent()
        store.put(there)
        for _ in range(2):
            able(store, RecordsSent).put_sent([sent(there.task_id, args=json_payload([1])), new])
            assert store.get(there.task_id) == there
        assert store.get(new.task_id) == new, "the others of the same call are stored"

    @pytest.mark.parametrize("later", LATER)
    def test_later_state_replaces_a_sent_task_and_keeps_its_call(self, store: Store, later: str) -> None:
        before = sent(args=json_payload([1]), parent_id="parent", root_id="root", expires_at=NOW)
        able(store, RecordsSent).put_sent([before])
        fields = {"result": None, "done_at": None, **LATER[later]}
        assert store.put(record(task_id=before.task_id, **fields)).written
        found = store.get(before.task_id)
        assert found is not None
        assert (found.state, found.result, found.done_at) == (fields["state"], fields["result"], fields["done_at"])
        assert (found.args, found.parent_id, found.root_id, found.queue) == (before.args, "parent", "root", "parcels")
        assert found.expires_at is None, "the expiry belongs to the state"

    def test_many_sent_tasks_are_stored(self, store: Store) -> None:
        records = [sent(group_id=f"group {number % 7}") for number in range(1_200)]
        able(store, RecordsSent).put_sent(records)
        ids = [one.task_id for one in records]
        assert store.get_many(ids).keys() == set(ids)

    def test_forgotten_task_is_sent_again(self, store: Store) -> None:
        task_id = new_id()
        store.put(record(task_id=task_id))
        store.delete([task_id])
        able(store, RecordsSent).put_sent([sent(task_id)])
        # a store that moves records later remembers the deletion, and refuses what may have been sent before it
        assert getattr(store.get(task_id), "state", "SENT") == "SENT"

    def test_expired_sent_task_is_deleted(self, store: Store) -> None:
        expired = datetime.now(timezone.utc) - timedelta(seconds=1)
        one, other = sent(expires_at=expired), sent(expires_at=expired + timedelta(days=1))
        able(store, RecordsSent).put_sent([one, other])
        while store.delete_expired(datetime.now(timezone.utc)):
            pass
        # a server that deletes by itself may need a moment
        wait_until(lambda: store.get(one.task_id) is None, "the expired record is deleted")
        assert store.get(other.task_id) == other

    def test_threads_that_send_and_store_the_same_tasks_leave_the_later_states(self, store: Store) -> None:
        ids = [new_id() for _ in range(40)]

        def work(number: int) -> None:
            mine = random.Random(number).sample(ids, len(ids))
            if number % 2:
                able(store, RecordsSent).put_sent([sent(one) for one in mine])
            else:
                for one in mine:
                    store.put(record(task_id=one, group_id=f"group {number}"))

        in_threads(4, work)
        assert {found.state for found in store.get_many(ids).values()} == {"SUCCESS"}
        assert store.get_many(ids).keys() == set(ids)

    def test_refused_record_is_an_error(self, store: Store) -> None:
        """A store may refuse ids that others accept; no record is lost silently."""
        odd = sent("\x00" * 2_000 + new_id())
        try:
            able(store, RecordsSent).put_sent([odd])
        except RootcellarError as exc:
            error = exc
        else:
            assert store.get(odd.task_id) == odd
            return
        assert not error.retryable
