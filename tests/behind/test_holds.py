"""Holds of write-behind: results are in Redis first, and holds in PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from rootcellar.backend.holding import HoldsOfBackend
from rootcellar.errors import ResultHeld, StoreUnavailable
from rootcellar.history.filters import Clock
from rootcellar.history.holds import Holds, place_hold
from rootcellar.maintenance.cleanup import Cleanup, CleanupWork
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


def test_refused_result_stays_while_it_is_held(behind: WriteBehindStore) -> None:
    """PostgreSQL cannot store so many retries: the only copy is in Redis, where no condition on rows finds it."""
    past = datetime.now(timezone.utc) - timedelta(seconds=60)
    for task_id, name in (("held", "shop.pay"), ("free", "mail.send")):
        behind.put(record(task_id=task_id, name=name, retries=2**80, expires_at=past))
    behind.put(record(task_id="later", name="mail.send", retries=2**80, expires_at=past + timedelta(days=1)))
    behind.drain_all()
    clock = Clock(datetime.now(timezone.utc), timezone.utc)
    hold = place_hold(behind, "task:shop.*", clock, reason="audit", by="ann")
    cleaned = cleanup_of(behind).clean()
    assert behind.get_many(["held", "free", "later"]).keys() == {"held", "later"}
    assert (cleaned.tasks, cleaned.held) == (1, 1)
    behind.release_hold(hold.id, "ann", clock.now)
    assert cleanup_of(behind).clean().tasks == 1
    assert behind.get_many(["held", "later"]).keys() == {"later"}


def test_refused_result_stays_if_a_rule_archives_it(behind: WriteBehindStore) -> None:
    past = datetime.now(timezone.utc) - timedelta(seconds=60)
    for task_id, name in (("archived", "shop.pay"), ("free", "mail.send")):
        behind.put(record(task_id=task_id, name=name, retries=2**80, expires_at=past, done_at=past))
    behind.drain_all()
    rules = {"result_retention": [{"task": "shop.*", "keep": 60, "then": "archive"}]}
    cleaned = cleanup_of(behind, rules).clean()
    assert behind.get_many(["archived", "free"]).keys() == {"archived"}
    assert (cleaned.tasks, cleaned.archiving) == (1, 1)
    # the rules are on record now, so a process without them also leaves it
    cleaned = cleanup_of(behind).clean()
    assert behind.get("archived") is not None
    assert (cleaned.tasks, cleaned.archiving_elsewhere) == (0, 1)


def cleanup_of(store: WriteBehindStore, conf: Mapping[str, Any] | None = None) -> Cleanup:
    return Cleanup(CleanupWork.of(store, codec_of({}), conf or {}))
