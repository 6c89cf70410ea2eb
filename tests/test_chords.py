"""Orphaned chords with damaged parts, and requests that belong to another task."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context
from celery.exceptions import ChordError

from rootcellar.backend import ResultBackend
from rootcellar.errors import KeyMissing
from rootcellar.records import ChordRecord, Payload
from rootcellar.testing.helpers import new_id, part


@pytest.fixture
def app(tmp_path: Path) -> Celery:
    backend = f"rootcellar+sqlite:///{tmp_path}/results.sqlite3"
    app = Celery("orphans", broker="memory://", backend=backend, set_as_current=False)

    @app.task(name="total", shared=False)
    def total(values: list[int]) -> int:
        return sum(values)

    return app


def make_orphan(app: Celery, part_result: Payload, body: Payload | None = None) -> str:
    """Complete a chord of one part whose worker died; return the id of its body."""
    backend: ResultBackend = app.backend
    group, body_id = new_id(), new_id()
    signature = app.tasks["total"].s().set(task_id=body_id)
    kept = body or Payload(json.dumps(signature).encode())
    backend.store.begin_chord(ChordRecord(group_id=group, body=kept))
    backend.store.size_chord(group, 1)
    counted = part(group, new_id(), result=part_result, owner=backend.chords.owner)
    assert backend.store.count_part(counted, lease=0.0).claimed
    return body_id


DAMAGED = Payload(b"{", "application/json")
GOOD = Payload(b"1", "application/json")


def test_unreadable_part_fails_its_chord(app: Celery) -> None:
    """No process can ever read the part: the chord would wait for ever."""
    body_id = make_orphan(app, DAMAGED)
    assert app.backend.chords.sweep() == 1
    with pytest.raises(ChordError, match="cannot be read"):
        app.AsyncResult(body_id).get(timeout=0)
    assert app.backend.chords.sweep() == 0


def test_failed_chord_does_not_block_the_sweep(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        make_orphan(app, GOOD, body=DAMAGED)
        make_orphan(app, GOOD)
    with caplog.at_level(logging.ERROR):
        assert app.backend.chords.sweep() == 3
    assert sum("cannot be finished" in one.getMessage() for one in caplog.records) == 3


def test_chord_waits_for_a_missing_key(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    make_orphan(app, GOOD)
    backend: Any = app.backend
    backend.chords.lease = 0.001
    with monkeypatch.context() as patch:

        def refuse(*_: object, **named: object) -> object:
            if named.get("field") is None:
                raise KeyMissing("the key k1 is not here")
            return decode(*_, **named)

        decode = backend.codec.decode
        patch.setattr(backend.codec, "decode", refuse)
        assert backend.chords.sweep() == 0
    # after the lease of the first try
    assert any(backend.chords.sweep() == 1 for _ in range(1000))


@pytest.mark.parametrize("end", ["update_state", "mark_as_done", "mark_as_failure", "mark_as_revoked"])
def test_state_of_another_task_has_no_field_of_the_request(app: Celery, end: str) -> None:
    backend: Any = app.backend
    app.conf.result_extended = True
    body = app.tasks["total"].s()
    group = new_id()
    request = Context(
        {
            "id": new_id(),
            "task": "total",
            "args": [[1]],
            "kwargs": {},
            "hostname": "w",
            "retries": 3,
            "stamps": {"a": 1},
        },
        group=group,
        group_index=0,
        chord=body,
        stamped_headers=["a"],
        root_id="root",
        parent_id="parent",
        delivery_info={"routing_key": "q"},
    )
    other = new_id()
    given = {
        "update_state": lambda: backend.store_result(other, 1, "SUCCESS", request=request),
        "mark_as_done": lambda: backend.mark_as_done(other, 1, request),
        "mark_as_failure": lambda: backend.mark_as_failure(other, ValueError("oh"), request=request),
        "mark_as_revoked": lambda: backend.mark_as_revoked(other, "why", request),
    }
    given[end]()
    record = backend.store.get(other)
    fields = {name for name, value in asdict(record).items() if value not in (None, ())}
    assert fields <= {"task_id", "state", "result", "traceback", "done_at", "expires_at", "failure_group"}
    assert list(backend.store.chord_parts(group)) == []
