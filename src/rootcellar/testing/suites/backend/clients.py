"""Clients whose settings differ from those of the worker."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from rootcellar import errors
from rootcellar.records import Payload, TaskRecord
from rootcellar.testing.harness import Harness
from rootcellar.testing.helpers import in_threads, new_id
from rootcellar.testing.suites.backend.looking import WAIT, stored


class TestClientsOfDifferentSettings:
    def test_result_expires_accepts_a_timedelta(self, harness: Harness) -> None:
        client = harness.client(result_expires=timedelta(days=3), result_failure_expires=timedelta(hours=2))
        for state, given in (("SUCCESS", timedelta(days=3)), ("FAILURE", timedelta(hours=2))):
            task_id = new_id()
            client.backend.store_result(task_id, ValueError("x") if state == "FAILURE" else 1, state)
            record = stored(harness, task_id)
            assert record is not None
            assert record.expires_at is not None
            assert record.done_at is not None
            assert record.expires_at - record.done_at == given

    def test_result_expires_after_a_day_by_default(self, harness: Harness) -> None:
        result = harness.tasks.add.delay(1, 1)
        result.get(timeout=WAIT)
        record = stored(harness, result.id)
        assert record is not None
        assert record.expires_at is not None
        assert record.done_at is not None
        assert record.expires_at - record.done_at == timedelta(days=1)

    def test_unknown_serializer_is_refused(self, harness: Harness) -> None:
        with pytest.raises(errors.ConfigurationError, match="unknown serializer 'nonesuch'"):
            _ = harness.client(result_serializer="nonesuch").backend

    def test_unreadable_result_fails_only_its_own_reader(self, harness: Harness) -> None:
        """A result that cannot be decoded is an error for the client that asks for it, and for no other."""
        good, bad = harness.tasks.add.delay(1, 1), new_id()
        damaged = Payload(b'{"half', compression="application/x-gzip")
        harness.backend.store.put(
            TaskRecord(task_id=bad, state="SUCCESS", result=damaged, done_at=datetime.now(timezone.utc))
        )

        def wait(number: int) -> Any:
            with suppress(errors.PayloadUnreadable):
                return harness.app.AsyncResult(good.id if number % 2 else bad).get(timeout=WAIT)
            return "unreadable"

        assert in_threads(8, wait) == ["unreadable", 2] * 4
