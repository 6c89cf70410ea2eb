"""`rootcellar.watch`."""

from __future__ import annotations

import asyncio
from typing import Any

import rootcellar
from rootcellar.testing.harness import Harness
from rootcellar.testing.helpers import new_id
from rootcellar.testing.suites.backend.looking import WAIT


class TestWatching:
    def test_watch_begins_with_pending_if_nothing_is_stored(self, harness: Harness) -> None:
        task_id = new_id()

        async def watch() -> list[tuple[str, Any]]:
            seen = []
            async for change in rootcellar.watch(task_id, WAIT, app=harness.app):
                seen.append((change.state, change.info))
                if change.state == "PENDING":
                    await asyncio.to_thread(harness.backend.store_result, task_id, {"done": 1}, "PROGRESS")
                if change.state == "PROGRESS":
                    await asyncio.to_thread(harness.backend.store_result, task_id, "done", "SUCCESS")
            return seen

        assert asyncio.run(watch()) == [("PENDING", None), ("PROGRESS", {"done": 1}), ("SUCCESS", "done")]
        assert asyncio.run(watch()) == [("SUCCESS", "done")]
