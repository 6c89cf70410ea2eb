"""Waiting for results while they are written to two stores."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from rootcellar.errors import PermissionDenied, RootcellarError, StoreUnavailable
from rootcellar.records import TaskRecord
from rootcellar.stores.base import Store
from rootcellar.stores.dual import DualStore, FixedPhases, Phase
from rootcellar.stores.watching import NotifyOn
from rootcellar.testing.helpers import new_id, record, wait_until
from rootcellar.testing.memory import MemoryStore
from rootcellar.testing.suites.store.waiting import Mailbox
from rootcellar.waiting.blocking import Waiter

Open = Callable[[Phase], DualStore]


@pytest.fixture
def stores() -> tuple[MemoryStore, MemoryStore]:
    return MemoryStore(f"memory://{new_id()}"), MemoryStore(f"memory://{new_id()}")


@pytest.fixture
def open_dual(stores: tuple[MemoryStore, MemoryStore]) -> Iterator[Open]:
    """Open the store of another process, in a phase of its own."""
    opened: list[DualStore] = []

    def open_one(phase: Phase) -> DualStore:
        opened.append(DualStore(*stores, FixedPhases(phase)))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


def neighbours() -> Iterator[tuple[Phase, Phase]]:
    """Yield each two phases in which two processes may be at the same time."""
    for phase in range(Phase.TARGET_ONLY + 1):
        yield Phase(phase), Phase(phase)
        if phase < Phase.TARGET_ONLY:
            yield Phase(phase), Phase(phase + 1)
            yield Phase(phase + 1), Phase(phase)


@pytest.mark.parametrize(("waiting", "writing"), list(neighbours()), ids=lambda phase: phase.name)
def test_waiter_gets_what_a_process_of_a_neighbouring_phase_stores(
    open_dual: Open, waiting: Phase, writing: Phase
) -> None:
    waiter = Waiter(open_dual(waiting))
    ended, failed = record(), record(state="FAILURE")
    notified = Mailbox()
    waiter.watcher().subscribe([ended.task_id, failed.task_id], notified.put)
    writer = open_dual(writing)
    writer.put(replace(ended, state="STARTED", done_at=None))
    writer.put(ended)
    assert notified.take() == [ended]
    writer.put(failed)
    assert notified.take() == [failed]
    waiter.close()


def test_waiter_listens_to_the_store_of_a_later_phase(open_dual: Open) -> None:
    """A client may wait while the migration goes from its beginning to its end."""
    store = open_dual(Phase.PREPARED)
    phases = store.phases
    assert isinstance(phases, FixedPhases)
    waiter = Waiter(store)
    ids = [new_id() for _ in Phase]
    notified = Mailbox()
    waiter.watcher().subscribe(ids, notified.put)
    for phase, task_id in zip(Phase, ids, strict=True):
        phases.set(phase)
        one = record(task_id=task_id)
        open_dual(phase).put(one)
        assert notified.take() == [one], phase
    waiter.close()


def test_waiter_is_sent_what_a_read_returns(open_dual: Open, stores: tuple[MemoryStore, MemoryStore]) -> None:
    """The source announces a SUCCESS, and the target already has another one, which was perhaps read."""
    source, target = stores
    theirs, ours = record(), record()
    ours = replace(ours, task_id=theirs.task_id, result=None)
    target.put(theirs)
    waiter = Waiter(open_dual(Phase.SWITCHING))
    source.put(ours)
    notified = Mailbox()
    waiter.watcher().subscribe([theirs.task_id], notified.put)
    assert notified.take() == [theirs]
    waiter.close()


def test_end_that_one_store_announces_too_early_is_waited_for(
    open_dual: Open, stores: tuple[MemoryStore, MemoryStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source announces the end; when it is read, the task has begun again. Its subscription is over by then."""
    source, _ = stores
    store = open_dual(Phase.DUAL)
    again = record(state="RETRY", done_at=None, retries=1)
    reads: list[Sequence[str]] = []
    read = DualStore.get_many

    def read_twice(self: DualStore, task_ids: Sequence[str]) -> dict[str, TaskRecord]:
        reads.append(task_ids)
        return {again.task_id: again} if len(reads) < 3 else read(self, task_ids)

    monkeypatch.setattr(DualStore, "get_many", read_twice)
    notified = Mailbox()
    last = record(task_id=again.task_id, state="FAILURE")
    source.put(last)
    Waiter(store).watcher().subscribe([again.task_id], notified.put)
    assert notified.take() == [last]
    assert len(reads) >= 3


@pytest.mark.parametrize("notify_on", NotifyOn)
def test_waiters_of_all_kinds_are_notified(open_dual: Open, notify_on: NotifyOn) -> None:
    waiter = Waiter(open_dual(Phase.SWITCHING))
    writer = open_dual(Phase.SWITCHING)
    one = record()
    notified, changes = Mailbox(), Mailbox()
    waiter.watcher().subscribe([one.task_id], notified.put, notify_on)
    waiter.watcher().subscribe([one.task_id], changes.put, NotifyOn.CHANGES)
    started = replace(one, state="STARTED", result=None, done_at=None)
    writer.put(started)
    assert changes.take() == [started]
    if notify_on is NotifyOn.CHANGES:
        assert notified.take() == [started]
    writer.put(one)
    assert changes.take() == [one]
    assert notified.take() == ([one.task_id] if notify_on is NotifyOn.ID else [one])
    waiter.close()


def test_cancelled_subscriptions_end_at_both_stores(open_dual: Open) -> None:
    store = open_dual(Phase.SWITCHING)
    waiter = Waiter(store)
    watcher = waiter.watcher()
    inner = [each.watcher() for each in store._listened]
    ids = [new_id() for _ in range(20)]
    subscription = watcher.subscribe(ids, lambda _: None)
    wait_until(lambda: all(set(each.awaited_ids()) == set(ids) for each in inner), "subscriptions at both stores")
    subscription.cancel()
    wait_until(lambda: not any(each._check_idle() is False for each in inner), "the end of the subscriptions")
    waiter.close()


def test_waiter_goes_on_if_one_store_cannot_be_listened_to(
    open_dual: Open,
) -> None:
    store = open_dual(Phase.SWITCHING)
    waiter = Waiter(store)
    one = record()
    notified = Mailbox()
    lost = store._listened[1].watcher()
    waiter.watcher().subscribe([one.task_id], notified.put)
    wait_until(lambda: lost.awaited_ids() == [one.task_id], "the subscription at the target")
    lost._fail(PermissionDenied("no right to listen"))
    open_dual(Phase.SWITCHING).put(one)
    assert notified.take() == [one]
    waiter.close()


def test_waiter_gets_the_error_if_no_store_can_be_listened_to(open_dual: Open) -> None:
    store = open_dual(Phase.SWITCHING)
    waiter = Waiter(store)
    task_id = new_id()
    notified = Mailbox()
    inner = [each.watcher() for each in store._listened]
    waiter.watcher().subscribe([task_id], notified.put)
    wait_until(lambda: all(each.awaited_ids() == [task_id] for each in inner), "subscriptions at both stores")
    for each in inner:
        each._fail(PermissionDenied("no right to listen"))
    assert isinstance(notified.take(), PermissionDenied)
    waiter.close()


def test_waiter_is_notified_by_a_store_that_refused_before(open_dual: Open) -> None:
    store = open_dual(Phase.TARGET_ONLY)
    waiter = Waiter(store)
    task_id = new_id()
    notified = Mailbox()
    target = store._listened[1].watcher()
    waiter.watcher().subscribe([task_id], notified.put)
    wait_until(lambda: target.awaited_ids() == [task_id], "the subscription at the target")
    target._fail(PermissionDenied("no right to listen"))
    assert isinstance(notified.take(), PermissionDenied)
    # the right was granted meanwhile
    one = record(task_id=task_id)
    waiter.watcher().subscribe([task_id], notified.put)
    open_dual(Phase.TARGET_ONLY).put(one)
    assert notified.take() == [one]
    waiter.close()


@pytest.mark.parametrize("event", ["another wait", "another phase"])
def test_store_that_refused_is_listened_to_again_after(open_dual: Open, event: str) -> None:
    store = open_dual(Phase.SWITCHING)
    assert isinstance(store.phases, FixedPhases)
    waiter = Waiter(store)
    first, second = new_id(), new_id()
    target = store._listened[1].watcher()
    waiter.watcher().subscribe([first], lambda _: None)
    wait_until(lambda: target.awaited_ids() == [first], "the subscription at the target")
    target._fail(PermissionDenied("no right to listen"))
    wait_until(lambda: not target.awaited_ids(), "the end of the subscription")
    if event == "another wait":
        waiter.watcher().subscribe([second], lambda _: None)
    else:
        store.phases.set(Phase.TARGET_FIRST)
    wait_until(lambda: first in target.awaited_ids(), "another subscription at the target")
    waiter.close()


def test_waiter_waits_for_the_end_of_an_outage(open_dual: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_dual(Phase.SWITCHING)
    waiter = Waiter(store)
    one = record(state="FAILURE")
    notified = Mailbox()
    failed = threading.Event()
    read = DualStore.get_many

    def fail_once(self: Store, task_ids: Any) -> Any:
        if not failed.is_set():
            failed.set()
            raise StoreUnavailable("stopped")
        return read(self, task_ids)  # type: ignore[arg-type]

    monkeypatch.setattr(DualStore, "get_many", fail_once)
    waiter.watcher().subscribe([one.task_id], notified.put)
    open_dual(Phase.SWITCHING).put(one)
    assert notified.take() == [one]
    assert failed.is_set()
    waiter.close()


def test_closed_store_ends_every_wait(open_dual: Open) -> None:
    store = open_dual(Phase.SWITCHING)
    waiter = Waiter(store)
    notified = Mailbox()
    waiter.watcher().subscribe([new_id()], notified.put)
    store.close()
    assert isinstance(notified.take(), RootcellarError)
    one = record()
    waiter.watcher().subscribe([one.task_id], notified.put)
    store.put(one)
    assert notified.take() == [one], "it can be used again"
    waiter.close()
