"""Typed JSON is readable in SQL, on Redis and in MongoDB, and is recognised as typed JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal

import pytest
from kombu.utils import json as kombu_json

from rootcellar.cli.values import json_value, one_line
from rootcellar.payloads import Codec
from rootcellar.records import TYPED_JSON, Payload, TaskRecord
from rootcellar.stores.layouts.documents import task_record, task_update
from rootcellar.stores.layouts.json_blob import decode_task, encode_task
from rootcellar.stores.sql.rows import payload_columns, read_payload

VALUE = {"total": Decimal("1.10"), "size": (2, 3)}
STORED = Codec(serializer="rootcellar-json").encode(VALUE, task_id="a task")
SHOWN = {
    "total": {"__type__": "decimal", "__value__": "1.10"},
    "size": {"__rootcellar__": "tuple", "__value__": [2, 3]},
}


def test_sql_text_is_the_payload() -> None:
    text, exact = payload_columns(STORED)
    assert text is not None
    assert exact is not None
    assert json.loads(text) == SHOWN
    assert len(exact) < 20, "it is not stored twice"
    assert read_payload(text, exact) == STORED


@pytest.mark.parametrize("text", ["\x00", "\ud800", 10**500], ids=["NUL", "surrogate", "long"])
def test_value_that_jsonb_refuses_is_stored_as_bytes(text: object) -> None:
    stored = Codec(serializer="rootcellar-json").encode((text,), task_id="a task")
    shown, exact = payload_columns(stored)
    assert shown is not None
    json.loads(shown)
    assert read_payload(shown, exact) == stored


def test_stock_client_on_redis_reads_known_types() -> None:
    record = TaskRecord(task_id="a task", state="SUCCESS", result=STORED, args=Payload(b"[1]"), kwargs=STORED)
    blob = encode_task(record)
    meta = kombu_json.loads(blob)
    assert meta["result"] == {"total": Decimal("1.10"), "size": SHOWN["size"]}
    assert decode_task("a task", blob) == record
    # the same with a stock client that has rootcellar's serializer
    assert Codec(accept={TYPED_JSON}).decode(Payload(blob, TYPED_JSON), task_id="a task")["result"] == VALUE


def test_stock_client_of_mongodb_reads_the_text() -> None:
    update, _ = task_update(TaskRecord(task_id="a task", state="SUCCESS", result=STORED, args=STORED))
    assert (json.loads(update["result"]), update["args"]) == (SHOWN, SHOWN)
    document = {"_id": "a task", "rootcellar": {}, **{name: value for name, value in update.items() if "." not in name}}
    document["rootcellar"] = {name[11:]: value for name, value in update.items() if name.startswith("rootcellar.")}
    assert task_record(document).result == STORED


def test_shown_value_has_no_markers() -> None:
    assert json_value(STORED) == {"total": "1.10", "size": [2, 3]}
    assert one_line(replace(STORED, body=b'{"__rootcellar__": ')) == f"<{TYPED_JSON}, 19 bytes, unreadable>"
    hostile = b'{"__rootcellar__": "dataclass", "class": "os:system", "__value__": {"command": "true"}}'
    assert json_value(Payload(hostile, TYPED_JSON)) == {"command": "true"}
