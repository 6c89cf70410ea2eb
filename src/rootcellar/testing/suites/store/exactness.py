"""Every payload comes back byte for byte."""

from __future__ import annotations

import json
import os
import pickle
import random
import zlib

import pytest

from rootcellar import errors
from rootcellar.records import (
    ChordRecord,
    GroupRecord,
    Payload,
)
from rootcellar.stores.base import Store
from rootcellar.testing.helpers import NOW, json_payload, new_id, part, record
from rootcellar.testing.under_test import StoreUnderTest

JSON_TEXTS: dict[str, str] = {
    "null": "null",
    "empty text": '""',
    "key order": '{"z": 1, "a": {"y": 2, "b": 3}, "m": []}',
    "a key twice": '{"a": 1, "a": 2}',
    "spaces": ' { "a" :\n\t[ 1 , 2 ] } ',
    "how numbers are written": "[1.10, 1E5, 1e+05, -0.0, 0.1, 1.7976931348623157e308, 5e-324, 1e308]",
    "large integers": json.dumps([2**53 + 1, 2**63, 2**64, 2**200, -(2**200), 10**400]),
    "too many digits for Python": "[1" + "0" * 5_000 + "]",
    "not a number": "[NaN, Infinity, -Infinity]",
    "words that look like numbers": json.dumps(["NaN", "Infinity", "1e99999", "9" * 500]),
    "escaped NUL": '"before \\u0000 after"',
    "escaped backslash": '"\\\\u0000 \\\\ud800"',
    "key with NUL": '{"\\u0000": 1}',
    "lone surrogates": '["\\ud800", "\\udfff", "\\udc00\\ud800", {"\\udead": 1}]',
    "surrogate pair": '"\\ud83e\\uddca"',
    "emoji": json.dumps("🧊 👩‍👩‍👧 🏴‍☠️ e\u0301", ensure_ascii=False),
    "right to left": json.dumps("قبو الجذور \u202eabc\u202c שלום", ensure_ascii=False),
    "separators": json.dumps("\u2028\u2029\u0085\ufeff\uffff", ensure_ascii=False),
    "control characters": json.dumps("".join(map(chr, range(1, 32))) + "\x7f"),
    "deep lists": "[" * 800 + "]" * 800,
    "deeper lists": "[" * 20_000 + "]" * 20_000,
    "deep objects": '{"a":' * 3_000 + "1" + "}" * 3_000,
    "brackets in text": json.dumps("[" * 5_000),
    "looks like a typed value": '{"__type__": "datetime", "__value__": "2031-05-06"}',
    "percent and braces": '"%s %(a)s {task} :name $1 \'\' \\" ?"',
}


OTHER_PAYLOADS: dict[str, Payload] = {
    "every byte": Payload(bytes(range(256)), "application/data", "binary"),
    "no bytes": Payload(b"", "application/data", "binary"),
    "pickle": Payload(pickle.dumps({"a": (1, b"\x00")}), "application/x-python-serialize", "binary"),
    "yaml": Payload("a: ü\nb: [1]\n".encode(), "application/x-yaml", "utf-8"),
    "compressed": Payload(zlib.compress(b"[1]" * 100), compression="application/x-gzip"),
    "encrypted": Payload(os.urandom(64), content_encoding="binary", key_id="key-1"),
    "compressed and encrypted": Payload(os.urandom(9), "a/b; c=d", "utf-8", "application/x-bz2", "clé"),
    "json in another encoding": Payload('"ü"'.encode("utf-16"), content_encoding="utf-16"),
    "json that is not utf-8": Payload(b'"\xff\xfe"'),
    "json with a bare NUL": Payload(b'"\x00"'),
    "frame-like bytes": Payload(b'rc1\n["a", "b", "", ""]\n', "application/data", "binary"),
}

PAYLOADS = {**{name: Payload(text.encode()) for name, text in JSON_TEXTS.items()}, **OTHER_PAYLOADS}


class TestPayloads:
    @pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
    def test_payload_comes_back_byte_for_byte(self, store: Store, payload: Payload) -> None:
        stored = record(result=payload, args=payload, kwargs=payload, children=payload, stamps=payload)
        assert store.put(stored).written
        assert store.get(stored.task_id) == stored
        assert store.get_many([stored.task_id]) == {stored.task_id: stored}

        group = GroupRecord(group_id=new_id(), result=payload, done_at=NOW)
        store.put_group(group)
        assert store.get_group(group.group_id) == group

        chord = ChordRecord(group_id=new_id(), body=payload, header=payload)
        store.begin_chord(chord)
        assert store.get_chord(chord.group_id) == chord
        store.count_part(part(chord.group_id, stored.task_id, 0))
        store.count_part(part(chord.group_id, "own", 1, result=payload))
        assert [one.result for one in store.chord_parts(chord.group_id)] == [payload, payload]

    def test_missing_payload_differs_from_null(self, store: Store) -> None:
        nothing, null = record(result=None), record(result=json_payload(None))
        store.put(nothing)
        store.put(null)
        assert store.get(nothing.task_id) == nothing
        assert store.get(null.task_id) == null

    @pytest.mark.parametrize("megabytes", [5, 50])
    def test_large_text_comes_back_exactly(self, under_test: StoreUnderTest, store: Store, megabytes: int) -> None:
        text = random.Random(megabytes).randbytes(1 << 19).hex()
        stored = record(result=Payload(b'"' + text.encode() * megabytes + b'"'))
        assert stored.result is not None
        assert len(stored.result.body) == (megabytes << 20) + 2
        if under_test.largest is not None and len(stored.result.body) > under_test.largest:
            with pytest.raises(errors.RecordRefused):
                store.put(stored)
            assert store.get(stored.task_id) is None
            return
        store.put(stored)
        assert store.get(stored.task_id) == stored
        assert store.delete([stored.task_id]) == 1

    def test_large_bytes_come_back_exactly(self, store: Store) -> None:
        stored = record(result=Payload(random.Random(1).randbytes(5 << 20), "application/data", "binary"))
        store.put(stored)
        assert store.get(stored.task_id) == stored
