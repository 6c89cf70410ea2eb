"""``python -m benchmarks.serialising``: typed JSON beside stock json and MessagePack; what compression does."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

from kombu.serialization import dumps, loads

from benchmarks.sealing import LARGE, ROUNDS, SMALL, microseconds_of
from rootcellar.payloads import Codec, Compressor
from rootcellar.records import TYPED_JSON

Work = tuple[Callable[[], object], Callable[[], object], int]
ACCEPT = {TYPED_JSON, "application/json", "application/x-msgpack"}
#: all other rows are compared with this one
STOCK = "Celery's `json`"


@dataclasses.dataclass
class RespConnection:
    """A line of an order."""

    name: str
    price: Decimal


TYPED: Any = {
    "id": uuid.UUID(int=7),
    "placed": datetime(2031, 5, 6, tzinfo=timezone.utc),
    "total": Decimal("19.90"),
    "tags": ["a", "b"],
}
OBJECTS: Any = {
    "lines": [RespConnection(f"stew {n}", Decimal(n)) for n in range(10)],
    "size": (2, 3),
    "tags": {"a", "b"},
}


def main() -> None:
    """Print the tables."""
    for title, value in {"small and plain": SMALL, "1 MB and plain": LARGE}.items():
        print_table(title, measure({STOCK: stock(value), **ours(value, ("json", "rootcellar-json", "msgpack"))}))
    print_table(
        "small, of types that Celery's json knows", measure({STOCK: stock(TYPED), **ours(TYPED, ("rootcellar-json",))})
    )
    print_table("small, of objects, tuples and sets", measure(ours(OBJECTS, ("rootcellar-json",))))
    for title, value in {"small and plain": SMALL, "1 MB and plain": LARGE}.items():
        codecs = {
            "not compressed": Codec(serializer="rootcellar-json"),
            "gzip, threshold 0": compressed("gzip", threshold=0),
            "gzip": compressed("gzip"),
            "zstd": compressed("zstd"),
            "bzip2": compressed("bzip2"),
            "lzma": compressed("lzma"),
            "brotli": compressed("brotli"),
        }
        work = {name: work_of(codec, value) for name, codec in codecs.items()}
        print_table(f"compression: {title}", measure(work, most=3))


def compressed(name: str, **options: int) -> Codec:
    """Return a codec that compresses payloads from 1,024 bytes on, unless the options say otherwise."""
    return Codec(serializer="rootcellar-json", compressor=Compressor(name, **options))


def ours(value: Any, serializers: tuple[str, ...]) -> dict[str, Work]:
    """Return the work of these serializers in rootcellar."""
    return {f"`{name}`": work_of(Codec(serializer=name, accept=ACCEPT), value) for name in serializers}


def stock(value: Any) -> Work:
    """Return the work of Celery's own backends with their default serializer."""
    content_type, encoding, text = dumps(value, serializer="json")
    return (
        lambda: dumps(value, serializer="json"),
        lambda: loads(text, content_type, encoding, accept=ACCEPT),
        len(text.encode()),
    )


def work_of(codec: Codec, value: Any) -> Work:
    """Return functions that encode and decode a value with a codec, and the size of the payload."""
    stored = codec.encode(value, task_id="a task")
    return (
        lambda: codec.encode(value, task_id="a task"),
        lambda: codec.decode(stored, task_id="a task"),
        len(stored.body),
    )


def measure(work: Mapping[str, Work], most: int = 100) -> dict[str, tuple[float, float, int]]:
    """Return the microseconds of encoding and decoding, and the bytes, the best of interleaved rounds."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for _ in range(min(ROUNDS, most)):
        for name, (encode, decode, _) in work.items():
            times[name].append((microseconds_of(encode), microseconds_of(decode)))
    return {name: (min(it[0] for it in times[name]), min(it[1] for it in times[name]), work[name][2]) for name in work}


def print_table(title: str, found: Mapping[str, tuple[float, float, int]]) -> None:
    """Print one table; the other rows are also given as a multiple of the first row."""
    first = next(iter(found.values()))
    print(f"\n| {title} | encode, µs | decode, µs | both, of the first row | bytes |\n|---|---|---|---|---|")
    for name, (encode, decode, size) in found.items():
        ratio = (encode + decode) / (first[0] + first[1])
        print(f"| {name} | {encode:,.1f} | {decode:,.1f} | {ratio:.2f}x | {size:,} |")


if __name__ == "__main__":
    main()
