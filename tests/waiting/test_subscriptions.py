"""The table of subscriptions, without a thread or a server."""

from __future__ import annotations

from datetime import datetime, timezone

from rootcellar.records import TaskRecord
from rootcellar.stores.subscriptions import NotifyOn, Subscription, SubscriptionTable

ENDED_AT = datetime(2030, 1, 1, tzinfo=timezone.utc)


def subscribed(table: SubscriptionTable, *task_ids: str, notify_on: NotifyOn = NotifyOn.RECORD) -> Subscription:
    subscription = Subscription(task_ids, lambda notification: None, notify_on, table.remove)
    table.add(subscription)
    return subscription


def record(task_id: str, state: str = "SUCCESS") -> TaskRecord:
    return TaskRecord(task_id=task_id, state=state, done_at=ENDED_AT if state == "SUCCESS" else None)


def test_ready_task_is_sent_once_to_each_subscriber() -> None:
    table = SubscriptionTable()
    one, two = subscribed(table, "a", "b"), subscribed(table, "a")
    assert table.records_to_send([record("a")]) == {one: [record("a")], two: [record("a")]}
    assert table.records_to_send([record("a")]) == {}
    assert list(table.by_task) == ["b"]
    assert list(one.waiting) == ["b"]


def test_change_is_sent_once_to_subscribers_of_changes() -> None:
    table = SubscriptionTable()
    subscribed(table, "a")
    changes = subscribed(table, "a", notify_on=NotifyOn.CHANGES)
    assert table.records_to_send([record("a", "STARTED")]) == {changes: [record("a", "STARTED")]}
    assert table.records_to_send([record("a", "STARTED")]) == {}
    assert table.records_to_send([record("a", "RETRY")]) == {changes: [record("a", "RETRY")]}


def test_id_ends_only_subscriptions_to_ids() -> None:
    table = SubscriptionTable()
    whole, by_id = subscribed(table, "a"), subscribed(table, "a", notify_on=NotifyOn.ID)
    assert table.ids_to_send(["a", "unknown"]) == {by_id: ["a"]}
    assert table.by_task["a"] == [whole]


def test_task_is_never_both_added_and_removed() -> None:
    table = SubscriptionTable()
    first = subscribed(table, "a")
    first.cancel()
    assert table.take_changes() == ({}, ["a"])
    subscribed(table, "a").cancel()
    subscribed(table, "a")
    assert table.take_changes() == ({"a": NotifyOn.RECORD}, [])
    assert table.take_changes() == ({}, [])


def test_task_of_several_subscribers_is_read_for_all_of_them() -> None:
    table = SubscriptionTable()
    subscribed(table, "a", "b", notify_on=NotifyOn.ID)
    subscribed(table, "a")
    subscribed(table, "b", notify_on=NotifyOn.CHANGES)
    wanted = {"a": NotifyOn.RECORD, "b": NotifyOn.CHANGES}
    assert table.take_changes() == (wanted, [])
    table.add_all_again()
    assert table.take_changes() == (wanted, [])


def test_cleared_table_returns_each_subscription_once() -> None:
    table = SubscriptionTable()
    one, two = subscribed(table, "a", "b"), subscribed(table, "b")
    assert table.clear() == {one, two}
    assert not table.by_task
    assert not table.added
