"""Replacing values in place, as `rootcellar rekey` does."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from rootcellar.records import (
    TYPED_JSON,
    Payload,
)
from rootcellar.stores.base import Replaceable, Store
from rootcellar.testing.helpers import NOW, able, record, wait_until
from rootcellar.testing.suites.store.exactness import OTHER_PAYLOADS

REPLACED = ("result", "args", "kwargs", "stamps")


class TestReplacing:
    """Every store of rootcellar is Replaceable."""

    @pytest.mark.parametrize("number", range(3))
    def test_replaced_record_has_the_new_values(self, store: Store, number: int) -> None:
        plain = Payload(b'{"a": "\xc3\xbc"}')
        odd = [Payload(b"[NaN]"), OTHER_PAYLOADS["encrypted"], Payload(b'{"t": 1}', TYPED_JSON)][number]
        old = record(
            **{"result": odd, "args": plain, "kwargs": None, "stamps": odd, "traceback": "before\n"},
            **{"children": plain, "done_at": NOW, "failure_group": 2**40},
        )
        store.put(old)
        for _ in range(2):
            new = replace(old, result=plain, args=odd, stamps=plain, traceback="after: ü'")
            assert able(store, Replaceable).replace(old, new)
            assert store.get(old.task_id) == new
            assert store.get_many([old.task_id]) == {old.task_id: new}
            assert not able(store, Replaceable).replace(old, new), "the old one is gone"
            assert able(store, Replaceable).replace(new, old)
            assert store.get(old.task_id) == old

    @pytest.mark.parametrize("content_type", ["application/json", TYPED_JSON])
    @pytest.mark.parametrize("changed", [*REPLACED, "traceback", "state"])
    def test_changed_record_is_not_replaced(self, store: Store, changed: str, content_type: str) -> None:
        values = dict.fromkeys(REPLACED, Payload(b"1", content_type))
        old = record(state="FAILURE", traceback="before", done_at=NOW, **values)
        store.put(old)
        other: Any = {"traceback": "meanwhile", "state": "REVOKED"}.get(changed, Payload(b'{"x": 2}', content_type))
        meanwhile = replace(old, **{changed: other})
        store.put(meanwhile)
        assert not able(store, Replaceable).replace(old, replace(old, result=Payload(b"3"), traceback="late"))
        assert store.get(old.task_id) == meanwhile

    def test_deleted_record_is_not_replaced(self, store: Store) -> None:
        old = record(result=Payload(b"1"))
        assert not able(store, Replaceable).replace(old, replace(old, result=Payload(b"2")))
        assert store.get(old.task_id) is None

    def test_replaced_record_keeps_its_expiry(self, store: Store) -> None:
        old = record(result=Payload(b"1"), done_at=NOW, expires_at=datetime.now(timezone.utc) + timedelta(seconds=1))
        store.put(old)
        assert able(store, Replaceable).replace(old, replace(old, result=Payload(b"2")))

        def is_gone() -> bool:
            store.delete_expired(datetime.now(timezone.utc))
            return store.get(old.task_id) is None

        wait_until(is_gone, "the expiry of the replaced record")
