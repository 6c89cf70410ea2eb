"""Watching tasks: a waiter is notified of a result that is stored."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import replace
from typing import Any

import pytest
from celery.exceptions import TimeoutError

from rootcellar.records import (
    TaskRecord,
)
from rootcellar.stores.base import Store
from rootcellar.stores.watching import NotifyOn
from rootcellar.testing.helpers import PATIENCE, in_threads, json_payload, new_id, record
from rootcellar.testing.suites.store.states import _put_all
from rootcellar.testing.synced_processes import SyncedProcesses
from rootcellar.testing.under_test import StoreUnderTest
from rootcellar.waiting.blocking import Waiter


class TestWatching:
    """A waiter is notified by the store, or by a watcher that polls: see :mod:`rootcellar.waiting.blocking`."""

    def test_watcher_notifies_when_a_task_ends(self, store: Store) -> None:
        one = record()
        waiter = Waiter(store)
        notified = Mailbox()
        waiter.watcher().subscribe([one.task_id], notified.put)
        store.put(replace(one, state="STARTED", done_at=None))
        store.put(one)
        assert notified.take() == [one]
        waiter.close()

    def test_watcher_notifies_of_a_task_that_has_ended(self, store: Store) -> None:
        one, other = record(), record(state="FAILURE")
        store.put(one)
        store.put(other)
        waiter = Waiter(store)
        found = list(waiter.wait_for([one.task_id, other.task_id], timeout=PATIENCE))
        assert sorted(found, key=lambda found: found.task_id) == sorted([one, other], key=lambda one: one.task_id)
        notified = Mailbox()
        waiter.watcher().subscribe([one.task_id], notified.put, NotifyOn.ID)
        assert notified.take() == [one.task_id]
        waiter.close()

    def test_watcher_notifies_of_every_change(self, store: Store) -> None:
        one = record()
        states = [replace(one, state=f"STEP {n}", done_at=None) for n in range(3)]
        waiter = Waiter(store)
        notified = Mailbox()
        waiter.watcher().subscribe([one.task_id], notified.put, NotifyOn.CHANGES)
        for state in (*states, one):
            store.put(state)
            assert notified.take() == [state]
        waiter.close()

    def test_waiter_gets_results_from_another_process(
        self, shared: None, under_test: StoreUnderTest, place: str, store: Store, processes: SyncedProcesses
    ) -> None:
        ids = [new_id() for _ in range(50)]
        waiter = Waiter(store)
        found: list[TaskRecord] = []
        waiting = threading.Thread(target=lambda: found.extend(waiter.wait_for(ids, timeout=PATIENCE)))
        waiting.start()
        processes.run((_put_all, (under_test.open, place, ids, 7)))
        waiting.join(PATIENCE)
        assert {one.task_id: one.result for one in found} == dict.fromkeys(ids, json_payload(7))
        waiter.close()

    def test_eight_waiters_get_their_own_results(self, store: Store) -> None:
        waiter = Waiter(store)
        ids = [[new_id() for _ in range(20)] for _ in range(8)]

        def work(number: int) -> set[str]:
            if number < 8:
                return {one.task_id for one in waiter.wait_for(ids[number], timeout=PATIENCE)}
            for task_id in ids[number - 8]:
                store.put(record(task_id=task_id))
            return set(ids[number - 8])

        assert in_threads(16, work) == [set(some) for some in ids] * 2
        waiter.close()

    def test_cancelled_waiter_is_not_notified(self, store: Store) -> None:
        one, other = record(), record()
        waiter = Waiter(store)
        cancelled, notified = Mailbox(), Mailbox()
        waiter.watcher().subscribe([one.task_id], cancelled.put).cancel()
        waiter.watcher().subscribe([one.task_id, other.task_id], notified.put)
        store.put(one)
        assert notified.take() == [one]
        store.put(other)
        assert notified.take() == [other]
        assert cancelled.is_empty()
        waiter.close()

    def test_wait_for_a_task_that_does_not_end_times_out(self, store: Store) -> None:
        waiter = Waiter(store)
        for timeout in (0, 0.05):
            started = time.monotonic()
            with pytest.raises(TimeoutError):
                list(waiter.wait_for([new_id()], timeout=timeout))
            assert timeout <= time.monotonic() - started < timeout + PATIENCE
        assert list(waiter.wait_for([], timeout=0)) == []
        waiter.close()


class Mailbox:
    """Receives a watcher's notifications."""

    def __init__(self) -> None:
        self._notifications: queue.Queue[Any] = queue.Queue()
        self.put = self._notifications.put

    def take(self) -> Any:
        return self._notifications.get(timeout=PATIENCE)

    def is_empty(self) -> bool:
        return self._notifications.empty()
