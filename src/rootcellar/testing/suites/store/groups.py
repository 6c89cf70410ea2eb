"""Saved groups."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from rootcellar.records import (
    GroupRecord,
    Payload,
)
from rootcellar.stores.base import Store
from rootcellar.testing.helpers import NOW, json_payload, new_id


class TestGroups:
    def test_group_is_stored_read_and_deleted(self, store: Store) -> None:
        group = GroupRecord(group_id=new_id(), result=json_payload([["g", None], []]), done_at=NOW)
        assert store.get_group(group.group_id) is None
        store.delete_group(group.group_id)
        store.put_group(group)
        assert store.get_group(group.group_id) == group
        store.delete_group(group.group_id)
        assert store.get_group(group.group_id) is None

    def test_group_is_replaced_by_the_last_one(self, store: Store) -> None:
        first = GroupRecord(
            group_id=new_id(), result=Payload(b"\x00", "a/b", "binary"), done_at=NOW, expires_at=NOW + timedelta(1)
        )
        second = replace(first, result=json_payload(2), done_at=NOW + timedelta(2), expires_at=None)
        store.put_group(first)
        store.put_group(second)
        assert store.get_group(first.group_id) == second

    def test_group_is_not_read_as_a_task(self, store: Store) -> None:
        group = GroupRecord(group_id=new_id(), result=json_payload(1), done_at=NOW)
        store.put_group(group)
        assert store.get(group.group_id) is None
        assert store.delete([group.group_id]) == 0
        assert store.get_group(group.group_id) == group
