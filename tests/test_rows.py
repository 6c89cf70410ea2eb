"""Rows are readable by people and by SQL, and exact."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timezone

import psycopg
import pytest

from rootcellar.errors import PayloadUnreadable, RecordRefused
from rootcellar.payloads import serialise
from rootcellar.records import GroupRecord, Payload
from rootcellar.stores import framing
from rootcellar.stores.sql import fragments, json_text, rows
from rootcellar.testing.helpers import full_record, record
from rootcellar.testing.suites.store.exactness import OTHER_PAYLOADS, PAYLOADS
from tests.servers import PostgresServer
from tests.test_payload import random_json


@pytest.fixture(scope="module")
def connection(postgres_server: PostgresServer) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(postgres_server.url, autocommit=True) as found:
        yield found


def shown(payload: Payload) -> str:
    """Return the readable value of a row, after checking that the payload itself comes back."""
    text, exact = rows.payload_columns(payload)
    assert text is not None
    assert rows.read_payload(text, exact) == payload
    return text


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
def test_readable_value_is_json_that_sql_can_cast(
    connection: psycopg.Connection[tuple[object, ...]], payload: Payload
) -> None:
    text = shown(payload)
    json.loads(text, parse_constant=pytest.fail) if len(text) < 5_000 else None
    connection.execute("SELECT %s::json, %s::jsonb", (text, text))
    with closing(sqlite3.connect(":memory:")) as sqlite:
        assert sqlite.execute("SELECT json_valid(?)", (text,)).fetchone() == (1,)


def test_readable_random_value_is_json_that_sql_can_cast(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    source = random.Random(7)
    texts = [shown(serialise(random_json(source), "json")) for _ in range(500)]
    connection.execute("SELECT t::json, t::jsonb FROM unnest(%s::text[]) AS t", (texts,))


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (b'{"b": 1, "a": [true, null, 1.10]}', None),
        ('"🧊 é"'.encode(), None),
        (b"1e308", None),
        (b'"NaN"', None),
        (b'{"a": NaN}', {"a": "NaN"}),
        (b"[Infinity, -Infinity]", ["Infinity", "-Infinity"]),
        (b'"a\\u0000b"', "a␀b"),
        (b'["\\ud800", "x"]', ["�", "x"]),
        (b"\x80\x04", "<application/json, 2 bytes>"),
        (b"[" * 700 + b"]" * 700, "<application/json, 1400 characters>"),
    ],
)
def test_row_has_a_readable_value(stored: bytes, expected: object) -> None:
    text, exact = rows.payload_columns(Payload(stored))
    assert text is not None
    if expected is None:
        assert (text, exact) == (stored.decode(), None), "only the text"
    else:
        assert json.loads(text) == expected
        assert exact is not None


def test_value_of_another_format_is_described() -> None:
    for payload in OTHER_PAYLOADS.values():
        if payload.content_type != "application/json":
            assert json.loads(shown(payload)) == f"<{payload.content_type}, {len(payload.body)} bytes>"


def test_missing_payload_has_no_columns() -> None:
    assert rows.payload_columns(None) == (None, None)
    assert rows.read_payload(None, None) is None


@pytest.mark.parametrize("text", ["[" * 512 + "]" * 512, json.dumps("[{" * 9_000), json.dumps("9" * 500), "[1e308]"])
def test_json_for_every_server_is_portable(text: str) -> None:
    assert json_text.is_portable(text)


@pytest.mark.parametrize(
    "text",
    ["[" * 513 + "]" * 513, "NaN", '"\\u0000"', '"\\uDEAD"', "9" * 20_000, "1e99999", '"\x00"', '{"a": -Infinity}'],
)
def test_json_that_a_server_refuses_is_not_portable(text: str) -> None:
    assert not json_text.is_portable(text)


@pytest.mark.parametrize(
    "blob", [b"", b"rc1\n", b"rc2\n[]\n", b"rc1\nnot json\nx", b'rc1\n["a"]\nx', b'rc1\n["a", "b", "", ""]']
)
def test_damaged_frame_is_refused(blob: bytes) -> None:
    with pytest.raises(PayloadUnreadable, match="damaged"):
        framing.unframe(blob)


def test_record_becomes_a_row_and_comes_back() -> None:
    for one in (full_record(), record(result=None), record(result=OTHER_PAYLOADS["every byte"])):
        row = rows.task_row(one)
        assert tuple(row) != ()
        assert set(row) == set(rows.TASK_COLUMNS)
        assert rows.task_record([row[column] for column in rows.TASK_COLUMNS]) == one


def test_id_that_no_table_holds_is_not_searched() -> None:
    now = datetime.now(timezone.utc)
    for odd in ("a\x00", "\ud800"):
        with pytest.raises(RecordRefused):
            rows.task_row(record(task_id=odd))
        with pytest.raises(RecordRefused):
            rows.group_row(GroupRecord(group_id=odd, result=Payload(b"1"), done_at=now))
    assert rows.findable(["b", "a", "\x00", "b", "🧊", "\udfff", ""]) == ["b", "a", "🧊", ""]


def test_update_names_every_column_except_the_id() -> None:
    assignments = fragments.update_assignments()
    named = [part.split(" = ")[0] for part in assignments.split(", ")]
    assert sorted(named) == sorted(set(rows.TASK_COLUMNS) - {"task_id"})
    assert "args_exact = CASE WHEN excluded.args IS NULL" in assignments, (
        "both columns of a payload are updated together"
    )


def test_pattern_is_escaped_for_sql() -> None:
    assert fragments.like_pattern("shop.*_100%\\") == "shop.%\\_100\\%\\\\"
    assert fragments.glob_pattern("shop.*[a]?") == "shop.*[[]a][?]"


def test_chunks_split_a_sequence() -> None:
    assert [list(chunk) for chunk in framing.chunks("abcde", 2)] == [["a", "b"], ["c", "d"], ["e"]]
    assert list(framing.chunks([], 2)) == []
