"""Values become payloads and come back equal; other values are refused with a clear error."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Collection
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

import pytest
from kombu.exceptions import EncodeError

from rootcellar.errors import ConfigurationError, ContentRefused, PayloadUnreadable
from rootcellar.payloads import Codec, Compressor, NotEncodable, content_type_of
from rootcellar.records import Payload
from rootcellar.testing.conformance_app import JSON_VALUES, deep

PICKLE = "application/x-python-serialize"


def encode(value: Any, serializer: str = "json", compression: str | None = None) -> Payload:
    return Codec(serializer=serializer, compressor=Compressor(compression, threshold=0)).encode(value, task_id="a task")


def decode(stored: Payload, accept: Collection[str] | None) -> Any:
    return Codec(accept=accept).decode(stored, task_id="a task")


def random_json(source: random.Random, depth: int = 4) -> Any:
    """Return a random JSON value, with many difficult ones."""
    texts = ["", "__type__", "__value__", "rootcellar.dict", "\x00", "\ud800", "\\u0000", "NaN", "é", "🧊", '"']
    numbers = [0, -1, 2**63, 2**200, 1e308, -0.0, float("nan"), float("inf"), 0.1, True, False, None]
    kind = source.randrange(4 if depth else 2)
    if kind == 0:
        return source.choice(numbers)
    if kind == 1:
        return "".join(source.choices(texts, k=source.randrange(3)))
    if kind == 2:
        return [random_json(source, depth - 1) for _ in range(source.randrange(4))]
    if source.random() < 0.3:
        return {name: random_json(source, depth - 1) for name in source.sample(["__type__", "__value__"], 2)}
    return {source.choice(texts): random_json(source, depth - 1) for _ in range(source.randrange(4))}


@pytest.mark.parametrize("name", JSON_VALUES)
def test_json_value_comes_back(name: str) -> None:
    value = JSON_VALUES[name]
    found = decode(encode(value, "json"), {"application/json"})
    assert json.dumps(found) == json.dumps(value)


def test_random_json_values_come_back() -> None:
    source = random.Random(20310506)
    for _ in range(2_000):
        value = random_json(source)
        stored = encode(value, "json")
        assert json.dumps(decode(stored, None)) == json.dumps(value)


@pytest.mark.parametrize(
    "value",
    [
        datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=timezone.utc),
        datetime(2031, 5, 6, 7, 8, 9),
        date(2031, 5, 6),
        Decimal("1.10"),
        uuid.UUID(int=7),
        b"\x00\xff",
        b"text",
        [{"when": datetime(2031, 5, 6, tzinfo=timezone.utc), "like": {"__type__": "a", "__value__": Decimal(1)}}],
        {"__type__": "uuid", "__value__": uuid.UUID(int=7)},
        [uuid.UUID(int=7), "\ud800", {"__type__": b"\xff", "__value__": "\x00"}],
    ],
    ids=repr,
)
def test_type_that_kombu_adds_to_json_comes_back(value: Any) -> None:
    assert decode(encode(value, "json"), None) == value


def test_json_is_readable() -> None:
    assert encode({"b": "🧊 é", "a": [1, 2.5, None]}, "json").body == '{"b": "🧊 é", "a": [1, 2.5, null]}'.encode()
    assert encode("x", "json") == Payload(b'"x"', "application/json", "utf-8", "", "")


def test_json_converts_other_values_like_pythons_json() -> None:
    assert decode(encode({1: (2, 3), None: True}, "json"), None) == {"1": [2, 3], "null": True}


def test_encoding_does_not_change_the_value() -> None:
    value = {"__type__": "a", "__value__": [{"__type__": "b", "__value__": ("c",)}]}
    before = repr(value)
    encode(value, "json")
    assert repr(value) == before


def test_value_of_stock_celery_is_read() -> None:
    stock = b'{"when": {"__type__": "datetime", "__value__": "2031-05-06T07:08:09+00:00"}}'
    assert decode(Payload(stock), None) == {"when": datetime(2031, 5, 6, 7, 8, 9, tzinfo=timezone.utc)}


def circle() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("serializer", "value"),
    [
        ("json", object()),
        ("json", {"a": {1, 2}.__iter__()}),
        ("json", deep(100_000)),
        ("json", circle()),
        ("json", {(1, 2): 3}),
        ("json", {"__type__": "x", "__value__": object()}),
        ("pickle", lambda: None),
        ("msgpack", object()),
        ("msgpack", 2**200),
        ("yaml", deep(100_000)),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_value_that_cannot_be_encoded_is_an_error(serializer: str, value: Any) -> None:
    with pytest.raises(NotEncodable, match=f"cannot be encoded as {serializer}") as caught:
        encode(value, serializer)
    assert isinstance(caught.value, EncodeError), "so that Celery records a failure of the task"
    assert not caught.value.retryable
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("serializer", "content_type", "value"),
    [
        ("pickle", PICKLE, {1: (2, {3}), "e": ValueError("x")}),
        ("yaml", "application/x-yaml", {"text": "🧊 \u2028", 7: [True, None, 1.5]}),
        ("msgpack", "application/x-msgpack", {"bytes": b"\x00\xff", "list": [1, 2.5, None, "🧊"]}),
    ],
)
@pytest.mark.parametrize("compression", [None, "gzip", "bzip2"])
def test_other_serializer_is_used(serializer: str, content_type: str, value: Any, compression: str | None) -> None:
    value = [value] * 50
    stored = encode(value, serializer, compression)
    assert stored.content_type == content_type
    assert bool(stored.compression) is bool(compression)
    assert repr(decode(stored, {content_type})) == repr(value)
    for accepted in ({"application/json"}, set()):
        with pytest.raises(ContentRefused, match=f"is {content_type}, which is not accepted") as caught:
            decode(stored, accepted)
        assert "result_accept_content" in str(caught.value)


def test_json_can_be_refused() -> None:
    with pytest.raises(ContentRefused):
        decode(encode(1, "json"), {PICKLE})


def test_pickle_is_not_read_unless_accepted() -> None:
    for accepted in (None, {"application/json"}):
        with pytest.raises(ContentRefused):
            decode(Payload(b"cos\nsystem\n(S'exit 1'\ntR.", PICKLE, "binary"), accepted)


def test_raw_bytes_come_back() -> None:
    for accepted in ({"application/data"}, {"application/json"}, None):  # harmless, so always accepted
        assert decode(Payload(b"\x00\xff", "application/data", "binary"), accepted) == b"\x00\xff"


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "lzma"])
def test_compressed_payload_comes_back(compression: str) -> None:
    value = ["compressible"] * 1_000
    stored = encode(value, "json", compression)
    assert (stored.content_type, stored.content_encoding) == ("application/json", "utf-8")
    assert len(stored.body) < len(encode(value, "json").body) / 10
    assert decode(stored, None) == value


@pytest.mark.parametrize(
    "damaged",
    [
        Payload(b'{"half'),
        Payload(b"\xff\xfe"),
        Payload(b""),
        Payload(b"[" * 100_000 + b"]" * 100_000),
        Payload(b"{}", content_encoding="no-such-encoding"),
        Payload(b"no gzip", compression="application/x-gzip"),
        Payload(encode("x" * 1_000, "json", "gzip").body[:-5], compression="application/x-gzip"),
        Payload(b"{}", compression="application/x-nonesuch"),
        Payload(b'{"__type__": "nonesuch", "__value__": 1}'),
        Payload(b"\x80\x04half", PICKLE, "binary"),
        Payload(b"x", "application/x-nonesuch", "binary"),
        Payload(b"x", "application/x-nonesuch", "utf-8"),
    ],
    ids=lambda stored: f"{stored.body[:12]!r} {stored.compression}",
)
def test_payload_that_cannot_be_decoded_is_an_error(damaged: Payload) -> None:
    with pytest.raises(PayloadUnreadable, match="cannot be decoded") as caught:
        decode(damaged, {"application/json", PICKLE, "application/x-nonesuch"})
    assert not caught.value.retryable
    assert len(str(caught.value)) < 1_000


def test_unknown_serializer_or_compression_is_refused() -> None:
    assert content_type_of("json") == "application/json"
    with pytest.raises(ConfigurationError, match="unknown serializer 'jsn'") as caught:
        content_type_of("jsn")
    assert "json" in caught.value.remedy
