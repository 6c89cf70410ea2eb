"""Decodes random bytes as stored results: ``python -m tests.fuzz [inputs]``.

Half of the inputs are made of pieces of the formats, half are stored values with changed bytes. Every input is decoded
with every content type and compression that needs no extra trust. It fails for an exception that is not rootcellar's,
for more than a second of work for one input, and for more memory than the limit.
"""

from __future__ import annotations

import pickle
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import numpy

from rootcellar.errors import PayloadError, RootcellarError
from rootcellar.payloads import Codec, Compressor
from rootcellar.records import TYPED_JSON, Payload
from rootcellar.stores.framing import unframe
from rootcellar.stores.layouts.json_blob import decode_task
from rootcellar.stores.sql.rows import read_payload
from tests.typed_values import Colour, Crate, Customer, Model, Money, Order

#: the maximum size of a decompressed payload, and of the growth of the process, in bytes
LARGEST = 1 << 20
MEMORY = 256 << 20
SECONDS = 1

PIECES = [
    *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u0000", b"\\ud800", b"1", b"-", b"1e999", b"NaN", b"null"),
    *(b'{"__rootcellar__": "', b'", "__value__": ', b'"class": "', b'"name": ', b'"dtype": "<', b'"shape": ['),
    *(b"set", b"dict", b"tuple", b"enum", b"dataclass", b"attrs", b"pydantic", b"ndarray", b"numpy", b"range", b"path"),
    *(b"datetime", b"timedelta", b"zone", b"int", b"float", b"complex", b"bytearray", b"decimal", b"uuid", b"base64"),
    *(b"tests.typed_values:Order", b"os:system", b"tests.typed_values:Colour", b"P1DT1S", b"[Europe/Berlin]", b"0x"),
    *(b"rc1\n", b"rc1 typed text", b'["application/json", "utf-8", "", ""]\n', b"!", b'"rootcellar":"1', b"S00000000"),
    *(b"\x00celery-compressed\x00", b"\x80\x04", b"\xff", b"9" * 50, b"[" * 300, b'{"a":' * 100, b'"__type__"'),
]
VALUES: list[Any] = [
    {"orders": [Order(number=1, customer=Customer("Ann"), lines=(1, {2}))], "when": Decimal("1.1")},
    [Money(Decimal(1), "EUR"), Colour.RED, Crate(b"\xff"), numpy.arange(4.0), 1 + 2j, range(3)],
    {1: (2, 3), (4,): frozenset([5]), "__type__": 1},
    Model.Nested(when=None, more=["x" * 50]),
    ["plain", 1, None, {"a": 1.5}] * 5,
]
TYPES = [(TYPED_JSON, "utf-8"), ("application/json", "utf-8"), ("application/x-msgpack", "binary")]
TYPES += [
    ("application/x-yaml", "utf-8"),
    ("application/x-python-serialize", "binary"),
    ("application/x-none", "utf-8"),
]
METHODS = {"gzip": "application/x-gzip", "bzip2": "application/x-bz2", "lzma": "application/x-lzma"}
METHODS |= {"zstd": "application/zstd", "brotli": "application/x-brotli"}
CODEC = Codec(
    compressor=Compressor(largest=LARGEST),
    accept={TYPED_JSON, "application/json", "application/x-msgpack", "application/x-yaml"},
    old_pickles=True,
)


def decode(payload: Payload) -> bool:
    """Decode; return whether that gave a value. Every exception that is not rootcellar's is an error."""
    try:
        CODEC.decode(payload, task_id="a task")
    except PayloadError:
        return False
    return True


def decode_stored(blob: bytes) -> bool:
    """Decode as stored values of SQL and Redis."""
    try:
        payload = read_payload("1", blob)
        record = decode_task("a task", blob)
        found = [unframe(blob), payload, record.result, record.args]
        return all(decode(payload) for payload in found if payload is not None)
    except RootcellarError:
        return False


def inputs(source: random.Random) -> Iterator[tuple[Callable[[Any], bool], Any]]:
    """Yield functions and their arguments, for ever."""
    seeds = [
        Codec(serializer=serializer).encode(value, task_id="a task").body
        for serializer, values in {"rootcellar-json": VALUES, "msgpack": VALUES[4:], "yaml": VALUES[4:]}.items()
        for value in values
    ]
    seeds += [pickle.dumps(value, protocol) for value in ({1: (2, {3})}, [Decimal(1), b"x"]) for protocol in range(5)]
    packed = {
        method: Compressor(name, threshold=0).compress(Payload(seeds[4] * 20)).body for name, method in METHODS.items()
    }
    while True:
        kind = source.random()
        if kind < 0.4:
            body = b"".join(source.choices(PIECES, k=source.randrange(1, 12)))
        elif kind < 0.5:
            body = source.randbytes(source.randrange(40))
        else:
            body = changed(source.choice(seeds), source)
        if kind < 0.8:
            yield decode, Payload(body, *(TYPES[0] if source.random() < 0.5 else source.choice(TYPES)))
        elif kind < 0.9:
            method = source.choice(list(packed))
            yield decode, Payload(changed(packed[method], source), TYPED_JSON, compression=method)
        else:
            yield decode_stored, body


def changed(body: bytes, source: random.Random) -> bytes:
    """Return ``body`` with some bytes changed, removed or inserted."""
    for _ in range(source.randrange(4)):
        at = source.randrange(len(body) + 1)
        kind = source.randrange(4)
        if kind == 0:
            body = body[:at] + source.randbytes(1) + body[at + 1 :]
        elif kind == 1:
            body = body[:at] + body[at + source.randrange(1, 9) :]
        elif kind == 2:
            body = body[:at] + source.choice(PIECES) + body[at:]
        else:
            body = body[:at]
    return body


class TookTooLong(BaseException):
    """Not an ``Exception``, so that the decoder does not catch it."""


@contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """Raise an exception in a block that takes longer."""

    def ring(*_: Any) -> None:
        raise TookTooLong(f"it took more than {seconds} s")

    before = signal.signal(signal.SIGVTALRM, ring)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def fuzz(count: int, seed: int = 20310506, say: Callable[[str], object] = lambda text: None) -> tuple[int, int]:
    """Decode ``count`` inputs; return how many were valid, and by how many bytes the process grew.

    Raises:
        Exception: an exception that the decoder must not raise; its note has the input.
    """
    source = random.Random(seed)
    tries = inputs(source)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    good = 0
    with alarm(SECONDS):
        for number in range(count):
            attempt, given = next(tries)
            signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
            try:
                good += attempt(given)
            except BaseException as exc:
                raise AssertionError(f"input {number} of seed {seed}: {given!r}"[:2_000]) from exc
            if number % 100_000 == 99_999:
                say(f"{number + 1:,} inputs, {good:,} of them were values")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < MEMORY, f"the process grew by {grown:,} bytes"
    return good, grown


if __name__ == "__main__":
    wanted = int(sys.argv[1].replace("_", "")) if len(sys.argv) > 1 else 1_000_000
    start = time.monotonic()
    values, growth = fuzz(wanted, say=print)
    print(
        f"{wanted:,} inputs in {time.monotonic() - start:.0f} s: {values:,} were values, the others were refused with "
        f"an error of rootcellar; the process grew by {growth / 2**20:.0f} MiB"
    )
