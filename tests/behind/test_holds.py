"""Holds of write-behind: results are in Redis first, and holds in PostgreSQL."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from rootcellar.backend.holding import HoldsOfBackend
from rootcellar.errors import ResultHeld, StoreUnavailable
from rootcellar.history.filters import Clock
from rootcellar.history.holds import Holds, place_hold
from rootcellar.payloads import codec_of
from rootcellar.stores import Store
from rootcellar.stores.hybrid import WriteBehindStore
from rootcellar.testing.helpers import record
from tests.behind.helpers import open_behind
from tests.servers import free_port


def test_result_that_was_not_moved_yet_is_held(behind: WriteBehindStore, durable: Store) -> None:
    behind.put(record(task_id="held", name="shop.pay"))
    behind.put(record(task_id="free", name="mail.send"))
    clock = Clock(datetime.now(timezone.utc), timezone.utc)
    place_hold(behind, "task:shop.*", clock, reason="audit", by="ann")
    holds = Holds(behind, codec_of({}))
    with pytest.raises(ResultHeld):
        holds.forget(["held", "free"])
    behind.drain_all()
    assert durable.get_many(["held", "free"]).keys() == {"held"}
    with pytest.raises(ResultHeld):
        holds.forget(["held"])
    behind.drain_all()
    assert durable.get("held") is not None


def test_nothing_is_forgotten_while_nobody_can_say_what_is_held(front_url: str) -> None:
    store = open_behind(f"postgresql://127.0.0.1:{free_port()}/none", front_url)
    store.put(record(task_id="stays"))
    with pytest.raises(StoreUnavailable):
        HoldsOfBackend(store, codec_of({})).delete(["stays"])
    assert store.get("stays") is not None
    store.close()
