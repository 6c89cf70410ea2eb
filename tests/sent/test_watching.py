"""``rootcellar.watch`` and ``rootcellar.result`` of tasks that were only sent."""

from __future__ import annotations

import asyncio

import pytest

import rootcellar
from rootcellar.stores import StoreOptions, open_store
from rootcellar.stores.base import RecordsSent
from rootcellar.testing.gate import Gate
from rootcellar.testing.harness import Harness
from rootcellar.testing.helpers import PATIENCE
from tests.sent.test_tracking import stored


@pytest.mark.parametrize(("shows_sent", "first"), [(False, ["PENDING"]), (True, ["SENT"])])
def test_watch_shows_a_waiting_task_once_and_then_its_start_and_end(
    harness: Harness,
    gate: Gate,
    shows_sent: bool,
    first: list[str],
) -> None:
    client = harness.client(result_track_sent=True, result_sent_state=shows_sent)
    running = [harness.tasks.hold.delay(gate.port) for _ in range(harness.slots)]
    for _ in running:
        gate.await_arrival()
    waiting = client.tasks.hold_started.delay(gate.port, "over")
    assert stored(client.app, waiting.id) is not None

    async def states() -> list[str]:
        seen: list[str] = []
        async for change in rootcellar.watch(waiting, timeout=PATIENCE):
            seen.append(change.state)
            assert change.is_ready == (change.state == "SUCCESS")
            if len(seen) == 1:
                assert change.info is None
                for _ in running:
                    gate.let_through()
                await asyncio.to_thread(gate.await_arrival)
                gate.let_through()
        return seen

    found = asyncio.run(states())
    assert found[: len(first)] == first
    assert found.count(first[0]) == 1
    assert [state for state in found if state != "STARTED"] == [*first, "SUCCESS"], "a state may be left out"
    client.app.close()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////tmp/a",
        "postgresql://h/d",
        "mysql://h/d",
        "redis://h",
        "redis-cluster://h",
        "mongodb://h/d",
        "memory://a",
    ],
)
def test_every_store_can_record_sent_tasks(url: str) -> None:
    assert open_store(url).ability(RecordsSent) is not None


@pytest.mark.parametrize("mode", ["write-through", "write-behind"])
def test_hybrid_can_record_sent_tasks(mode: str) -> None:
    options = {"durable_url": "postgresql://h/d", "cache_url": "redis://h", "mode": mode}
    assert open_store("hybrid://", StoreOptions(transport_options=options)).ability(RecordsSent) is not None
