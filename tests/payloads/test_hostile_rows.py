"""Rows of an attacker, read by an application: they are refused with rootcellar's error, and have no effect."""

from __future__ import annotations

import json
import os
import pickle
import time
import zlib
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rootcellar.errors import PayloadError
from rootcellar.payloads import Codec
from rootcellar.records import TYPED_JSON, Payload, TaskRecord
from tests.fuzz import decode, decode_stored, fuzz
from tests.seeds import SEED


class WritesFile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def rows(trace: Path) -> dict[str, Payload]:
    named = {"__rootcellar__": "dataclass", "class": "os:system", "__value__": {"command": f"touch {trace}"}}
    deep = b'{"__rootcellar__": "tuple", "__value__": [' * 40_000 + b"]}" * 40_000
    nines = b'{"__rootcellar__": "decimal", "__value__": ' + b"9" * 1_000_000 + b"}"
    return {
        "a pickle that would write a file": Payload(
            pickle.dumps(WritesFile(trace)), "application/x-python-serialize", "binary"
        ),
        "a class that is a function": Payload(json.dumps(named).encode(), TYPED_JSON),
        "a bomb of nested lists": Payload(b"[" * 1_000_000),
        "a bomb of nested tuples": Payload(deep, TYPED_JSON),
        "a zip bomb": Payload(zlib.compress(b"[" + b" " * (4 << 20) + b"]"), compression="application/x-gzip"),
        "a huge number": Payload(nines, TYPED_JSON),
        "a huge array": Payload(
            b'{"__rootcellar__": "ndarray", "dtype": "<f8", "shape": [999999999999], "__value__": [1]}', TYPED_JSON
        ),
    }


@pytest.mark.parametrize("name", rows(Path()))
@pytest.mark.parametrize("old_pickles", [False, True])
def test_hostile_row_is_refused(name: str, old_pickles: bool, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    app = Celery(broker="memory://", backend=f"rootcellar+sqlite:///{tmp_path}/results.sqlite3", set_as_current=False)
    app.conf.update(result_serializer="rootcellar-json", result_accept_old_pickles=old_pickles)
    app.conf.result_max_decompressed_size = 1 << 20
    now = datetime.now(timezone.utc)
    app.backend.store.put(TaskRecord(task_id="a task", state="SUCCESS", result=rows(trace)[name], done_at=now))
    with pytest.raises(PayloadError):
        app.AsyncResult("a task").get(timeout=20)
    app.backend.store.close()
    assert not trace.exists()


@settings(deadline=None, database=None, suppress_health_check=list(HealthCheck), max_examples=100)
@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_decoded_or_refused(body: bytes) -> None:
    decode(Payload(body, TYPED_JSON))
    decode(Payload(body, "application/x-msgpack", "binary"))
    decode_stored(body)


def test_random_inputs_are_decoded_or_refused() -> None:
    """``python -m tests.fuzz`` tries a million inputs."""
    good, _ = fuzz(5_000, seed=SEED)
    assert good > 50, "some of the inputs must be valid, or the test proves nothing"


def test_fuzzer_finds_a_foreign_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Codec, *args: Any, **options: Any) -> None:
        raise KeyError("not ours")

    monkeypatch.setattr(Codec, "decode", broken)
    with pytest.raises(AssertionError, match="input 0 of seed 1"):
        fuzz(10, seed=1)


#: numbers whose hash is the same: a set of them takes a quadratic time
_COLLIDING = [number * (2**61 - 1) for number in range(1, 30_001)]


@pytest.mark.parametrize(
    "value",
    [
        {"__rootcellar__": "set", "__value__": _COLLIDING},
        {"__rootcellar__": "frozenset", "__value__": _COLLIDING},
        {"__rootcellar__": "dict", "__value__": [[number, 1] for number in _COLLIDING]},
        {"__rootcellar__": "set", "__value__": [{"__type__": "decimal", "__value__": str(n)} for n in _COLLIDING]},
        {
            "__rootcellar__": "set",
            "__value__": [{"__rootcellar__": "tuple", "__value__": [number]} for number in _COLLIDING],
        },
    ],
    ids=["set", "frozenset", "dict", "decimals", "tuples"],
)
def test_colliding_members_are_refused_quickly(value: Any) -> None:
    payload = Payload(json.dumps([value]).encode(), TYPED_JSON)
    started = time.process_time()
    with pytest.raises(PayloadError, match="the same hash"):
        Codec(accept={TYPED_JSON}).decode(payload, task_id="a")
    # comparing every pair takes minutes
    assert time.process_time() - started < 20


def test_large_sets_and_dicts_are_read() -> None:
    value = [set(range(100_000)), {number: -number for number in range(100_000)}, {-1, -2, 2**61 - 2}]
    codec = Codec(serializer="rootcellar-json", accept={TYPED_JSON})
    assert codec.decode(codec.encode(value, task_id="a"), task_id="a") == value
