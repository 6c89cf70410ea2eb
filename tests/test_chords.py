"""Orphaned chords of which something is damaged: each is finished or told of by itself."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import ChordError

from rootcellar.backend import ResultBackend
from rootcellar.errors import KeyMissing
from rootcellar.records import ChordRecord, Payload
from tests.conformance.stores import new_id, part


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


def test_a_part_that_cannot_be_read_fails_the_chord(app: Celery) -> None:
    """Nobody could ever read it: the chord would wait for ever."""
    body_id = make_orphan(app, DAMAGED)
    assert app.backend.chords.sweep() == 1
    with pytest.raises(ChordError, match="cannot be read"):
        app.AsyncResult(body_id).get(timeout=0)
    assert app.backend.chords.sweep() == 0


def test_one_that_cannot_be_finished_keeps_no_other_waiting(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        make_orphan(app, GOOD, body=DAMAGED)
        make_orphan(app, GOOD)
    with caplog.at_level(logging.ERROR):
        assert app.backend.chords.sweep() == 3
    assert sum("cannot be finished" in one.getMessage() for one in caplog.records) == 3


def test_a_key_that_is_missing_may_come(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
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
    # as soon as the lease of the first try is over
    assert any(backend.chords.sweep() == 1 for _ in range(1000))
