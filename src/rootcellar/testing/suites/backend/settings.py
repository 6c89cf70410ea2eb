"""Celery's settings for results."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import chord, group
from celery.exceptions import (
    ChordError,
)
from celery.result import GroupResult, ResultSet

from rootcellar import errors
from rootcellar.payloads import make_key
from rootcellar.records import Payload, TaskRecord
from rootcellar.testing.conformance_app import Outer, Own, Picky
from rootcellar.testing.gate import Gate
from rootcellar.testing.harness import Harness
from rootcellar.testing.helpers import new_id, wait_until
from rootcellar.testing.suites.backend.looking import WAIT, alone, stored


class TestSettings:
    def test_result_extended_stores_the_arguments(self, start_harness: Callable[..., Harness]) -> None:
        harness = start_harness(result_extended=True)
        result = harness.tasks.add.delay([1], y=[2])
        assert result.get(timeout=WAIT) == [1, 2]
        assert (result.args, result.kwargs, result.name) == ([[1]], {"y": [2]}, "conformance.add")
        failed = harness.tasks.raise_.delay("own")
        failed.get(timeout=WAIT, propagate=False)
        assert (failed.args, failed.kwargs) == (["own"], {})

    def test_arguments_stay_in_later_states(self, start_harness: Callable[..., Harness], gate: Gate) -> None:
        harness = start_harness(result_extended=True)
        result = harness.tasks.hold_started.delay(gate.port)
        gate.await_arrival()
        assert (result.state, result.args) == ("STARTED", [gate.port])
        harness.backend.store_result(result.id, {"by": "hand"}, "PROGRESS")
        assert (result.state, result.args) == ("PROGRESS", [gate.port])
        gate.let_through()
        result.get(timeout=WAIT)
        assert result.args == [gate.port]

    def test_task_track_started_stores_started(self, start_harness: Callable[..., Harness], gate: Gate) -> None:
        harness = start_harness(task_track_started=True)
        result = harness.tasks.hold.delay(gate.port)
        gate.await_arrival()
        assert result.state == "STARTED"
        gate.let_through()
        result.get(timeout=WAIT)

    def test_task_ignore_result_stores_only_what_asks_for_it(self, start_harness: Callable[..., Harness]) -> None:
        harness = start_harness(task_ignore_result=True)
        header = [harness.tasks.add.s(n, n) for n in range(3)]
        kept = harness.tasks.total.s().set(ignore_result=False)
        result = chord(header, kept)()
        assert harness.app.AsyncResult(result.id).get(timeout=WAIT) == 6

    @pytest.mark.parametrize(
        ("serializer", "value"),
        [
            ("pickle", {1: (2, {3}), "when": datetime(2031, 5, 6, tzinfo=timezone.utc)}),
            ("yaml", {"text": "🧊 \u2028", "list": [1, 2.5, None], 7: True}),
            ("msgpack", {"bytes": b"\x00\xff", "list": [1, 2.5, None, "🧊"]}),
            ("json", {"when": datetime(2031, 5, 6, tzinfo=timezone.utc), "id": uuid.UUID(int=7), "bytes": b"\x00\xff"}),
        ],
    )
    def test_serializer_stores_results_arguments_and_groups(
        self, start_harness: Callable[..., Harness], serializer: str, value: Any
    ) -> None:
        accepted = list({"json", serializer, "pickle"})
        harness = start_harness(
            result_serializer=serializer,
            result_accept_content=["json", serializer],
            accept_content=accepted,
            task_serializer="pickle",
            result_extended=True,
        )
        result = harness.tasks.echo.delay(value)
        assert result.get(timeout=WAIT) == value
        assert type(result.result) is type(value)
        assert result.args[0] == value
        record = stored(harness, result.id)
        assert record is not None
        assert record.result is not None
        assert serializer in record.result.content_type or serializer == "pickle"
        with pytest.raises(Own) as caught:
            harness.tasks.raise_.delay("own").get(timeout=WAIT)
        assert caught.value.args == ("text", 2, {"key": [None, 1.5]})
        members = group(harness.tasks.echo.s(value) for _ in range(2))()
        members.save()
        restored = GroupResult.restore(members.id, app=harness.client(**_accepts(serializer)).app)
        assert restored.get(timeout=WAIT) == [value, value]
        assert chord([harness.tasks.echo.s(value)], harness.tasks.echo.s())().get(timeout=WAIT) == [value]
        if serializer == "json":
            return
        stranger = harness.client(result_serializer="json", result_accept_content=["json"])
        with pytest.raises(errors.ContentRefused, match="not accepted"):
            stranger.app.AsyncResult(result.id).get(timeout=0)
        with pytest.raises(errors.ContentRefused):
            _ = stranger.app.AsyncResult(result.id).state

    def test_exceptions_come_back_with_the_pickle_serializer(self, start_harness: Callable[..., Harness]) -> None:
        harness = start_harness(
            result_serializer="pickle", result_accept_content=["pickle"], accept_content=["json", "pickle"]
        )
        for name, kind in (("nested", Outer.Nested), ("picky", Picky), ("builtin", ValueError)):
            found = harness.tasks.raise_.delay(name).get(timeout=WAIT, propagate=False)
            assert type(found).__name__ == kind.__name__
        result = chord([harness.tasks.add.s(1, 1), harness.tasks.raise_.s("builtin")], harness.tasks.echo.s())()
        with pytest.raises(ChordError, match="ValueError"):
            alone(harness, result).get(timeout=WAIT)

    def test_compressed_results_come_back(self, start_harness: Callable[..., Harness]) -> None:
        harness = start_harness(result_compression="gzip", result_extended=True)
        text = "compressible " * 10_000
        result = harness.tasks.echo.delay(text)
        assert result.get(timeout=WAIT) == text
        assert result.args == [text]
        record = stored(harness, result.id)
        assert record is not None
        assert record.result is not None
        assert "gzip" in record.result.compression
        assert len(record.result.body) < 5_000
        plain = harness.client()
        assert plain.app.AsyncResult(result.id).get(timeout=0) == text, "a client without compression reads it too"
        assert chord([harness.tasks.echo.s(1), harness.tasks.ignored.s()], harness.tasks.echo.s())().get(timeout=WAIT)
        with pytest.raises(Own):
            harness.tasks.raise_.delay("own").get(timeout=WAIT)

    def test_encrypted_results_come_back_only_with_their_key(self, start_harness: Callable[..., Harness]) -> None:
        keys = make_key("first")
        harness = start_harness(result_encryption_keys=keys, result_extended=True, result_compression="gzip")
        result = harness.tasks.echo.delay("a text that only this client can read")
        assert result.get(timeout=WAIT) == "a text that only this client can read"
        assert result.args == ["a text that only this client can read"]
        failed = harness.tasks.fail.delay(message="what went wrong")
        with pytest.raises(ValueError, match="what went wrong"):
            failed.get(timeout=WAIT)
        assert "what went wrong" in failed.traceback
        body = chord([harness.tasks.echo.s(1), harness.tasks.ignored.s()], harness.tasks.echo.s())()
        assert body.get(timeout=WAIT) == [1, "for nobody"]
        record = stored(harness, result.id)
        kept = stored(harness, failed.id)
        assert record is not None
        assert kept is not None
        assert (record.state, record.name) == ("SUCCESS", "conformance.echo")
        for payload in (record.result, record.args, kept.result, kept.kwargs):
            assert payload is not None
            assert payload.key_id == "aes-256-gcm:first"
        assert "went wrong" not in str(kept)
        assert "only this client" not in str(record)
        harness.backend.store.put(replace(kept, task_id=(moved := new_id())))
        with pytest.raises(errors.SealBroken, match="altered, or stored for another task"):
            harness.app.AsyncResult(moved).get(timeout=WAIT)
        without = harness.client(result_encryption_keys=make_key("second"))
        with pytest.raises(errors.KeyMissing, match="under the key 'first', and the keys here are second"):
            without.app.AsyncResult(result.id).get(timeout=WAIT)

    def test_results_expire_as_configured(self, start_harness: Callable[..., Harness]) -> None:
        harness = start_harness(result_expires=1.5, result_failure_expires=3600)
        ok, failed = harness.tasks.add.delay(1, 1), harness.tasks.raise_.delay("own")
        members = ResultSet([ok, failed], app=harness.app)
        members.get(timeout=WAIT, propagate=False)
        saved = GroupResult(new_id(), [ok, failed], app=harness.app).save()
        kept = TaskRecord(task_id=new_id(), state="SUCCESS", result=Payload(b"1"), done_at=datetime.now(timezone.utc))
        harness.backend.store.put(kept)

        def is_gone_after_a_cleanup() -> bool:
            harness.app.send_task("celery.backend_cleanup").get(timeout=WAIT)
            return stored(harness, ok.id) is None and harness.backend.store.get_group(saved.id) is None

        wait_until(is_gone_after_a_cleanup, "the cleanup of what expired")
        assert stored(harness, failed.id) is not None
        assert stored(harness, kept.task_id) == kept
        record = stored(harness, failed.id)
        assert record is not None
        assert record.expires_at is not None
        assert record.done_at is not None
        assert record.expires_at - record.done_at == timedelta(hours=1)

    @pytest.mark.parametrize("expires", [0, None])
    def test_results_without_expiry_never_expire(self, start_harness: Callable[..., Harness], expires: Any) -> None:
        harness = start_harness(result_expires=expires)
        ok, failed = harness.tasks.add.delay(1, 1), harness.tasks.raise_.delay("own")
        for one in (ok, failed):
            one.get(timeout=WAIT, propagate=False)
        harness.app.send_task("celery.backend_cleanup").get(timeout=WAIT)
        far = datetime(9999, 1, 1, tzinfo=timezone.utc)
        assert harness.backend.store.delete_expired(far) == 0
        for one in (ok, failed):
            record = stored(harness, one.id)
            assert record is not None
            assert record.expires_at is None

    def test_chord_outlives_the_results_of_its_members(self, start_harness: Callable[..., Harness], gate: Gate) -> None:
        harness = start_harness(result_expires=3600)
        header = [harness.tasks.add.s(1, 1), harness.tasks.hold.s(gate.port, "last")]
        result = chord(header, harness.tasks.echo.s())()
        first, _ = result.parent.results
        gate.await_arrival()
        assert first.get(timeout=WAIT) == 2
        while harness.backend.store.delete_expired(datetime.now(timezone.utc) + timedelta(hours=2)):
            pass
        # a copy in a cache expires by the clock, and an hour has not passed
        assert getattr(harness.backend.store, "durable", harness.backend.store).get(first.id) is None
        gate.let_through()
        assert alone(harness, result).get(timeout=WAIT) == [2, "last"]

    def test_failures_expire_while_successes_do_not(self, start_harness: Callable[..., Harness]) -> None:
        harness = start_harness(result_expires=None, result_failure_expires=60)
        ok, failed = harness.tasks.add.delay(1, 1), harness.tasks.raise_.delay("own")
        revoked = harness.tasks.add.apply_async((1, 1), expires=-1)
        for one in (ok, failed, revoked):
            one.get(timeout=WAIT, propagate=False)
        assert harness.backend.store.delete_expired(datetime.now(timezone.utc) + timedelta(minutes=2)) == 2
        assert stored(harness, ok.id) is not None

    def test_successes_expire_while_failures_do_not(self, start_harness: Callable[..., Harness]) -> None:
        harness = start_harness(result_expires=60, result_failure_expires=0)
        ok, failed = harness.tasks.add.delay(1, 1), harness.tasks.raise_.delay("own")
        for one in (ok, failed):
            one.get(timeout=WAIT, propagate=False)
        harness.backend.store.delete_expired(datetime.now(timezone.utc) + timedelta(minutes=2))
        # a copy in a cache goes by the clock, and a minute has not passed
        kept = getattr(harness.backend.store, "durable", harness.backend.store)
        assert kept.get(ok.id) is None
        assert kept.get(failed.id) is not None


def _accepts(serializer: str) -> dict[str, Any]:
    return {"result_serializer": serializer, "result_accept_content": ["json", serializer]}
