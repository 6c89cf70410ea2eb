"""The values that replace good ones."""

from __future__ import annotations

import math
import uuid
from datetime import datetime, timezone

import bson


class Text(bytes):
    """Bytes that SQLite stores as text."""


DEEP = "[" * 3_000 + "]" * 3_000
FRAMES = [
    *(b"", b"\x00", b"\xff\xfe", b"rc1", b"rc1\n", b"rc1\n[]\nx", b"rc1\n[1, 2, 3, 4]\nx", b'rc1\n{"a": 1}\nx'),
    *(b"rc1 typed text", b"rc1\n" + DEEP.encode() + b"\n1", b'rc1\n["application/json", "utf-8", "", ""]\n{'),
    *(b'rc1\n["application/json", "no-such-encoding", "", ""]\n1', b'rc1\n["", "", "", ""]\n1'),
    *(b'rc1\n["application/json", "utf-8", "zlib", ""]\nxx', b'rc1\n["application/json", "utf-8", "what", ""]\n1'),
    *(
        b'rc1\n["application/x-python-serialize", "binary", "", ""]\n\x80\x04N.',
        b'rc1\n["application/x-none", "", "", ""]\n1',
    ),
    *(
        b'rc1\n["application/json", "utf-8", "", "aes-256-gcm:k"]\nxx',
        b'rc1\n["application/json", "utf-8", "", "hmac-sha256:k:0"]\n1',
    ),
    *(
        b'rc1\n["application/json", "utf-8", "", "odd"]\n1',
        b'rc1\n["application/vnd.rootcellar.blob", "utf-8", "", ""]\n{}',
    ),
    b'rc1\n["application/x-rootcellar-json", "utf-8", "", ""]\n{"__rootcellar__": "set", "__value__": 5}',
    b'rc1\n["application/x-msgpack", "binary", "", ""]\n\xc1',
]
JSONS = [
    *("null", "5", '"x"', "[]", "{}", "[[1, 2], 3]", '[[["a", null], null], 5]', '[[[["a", null], 5], null]]', "1e400"),
    *(
        '{"exc_type": 5}',
        '{"exc_type": "A", "exc_message": 5, "exc_module": []}',
        '{"exc_type": "", "exc_module": "os"}',
    ),
    *(
        '{"__type__": "uuid", "__value__": 5}',
        '{"__type__": "datetime", "__value__": {}}',
        '{"__rootcellar__": "what"}',
    ),
    *(
        '"\\ud800"',
        "[" * 900 + "]" * 900,
        '[["a", null], ["b", 5]]',
        '{"stamps": 5}',
        "[null]",
        "[[[null, null], null]]",
    ),
]
TEXTS = [
    "",
    " ",
    "x",
    "null",
    "\u202e\u200b",
    "\U0001f642" * 50,
    "x" * 2_000,
    "rootcellar:",
    "rootcellar:aes-256-gcm:k:=",
    "\x1b[31m",
]
STATES = ["", "x", "success", "PENDING", "RETRY", "\U0001f642", "FAILURE", "REVOKED"]
NUMBERS = [0, -1, 2**31 - 1, -(2**31)]
IDS = ["odd {}", "odd {} \u00fc", "{} " + "x" * 150]

POSTGRES_DATES = [
    *("infinity", "-infinity", "0044-03-15 00:00:00+00 BC", "294276-12-31 00:00:00+00", "0001-01-01 00:00:00+00"),
    "1600-02-29 00:00:00+00",
]
MYSQL_DATES = ["0000-00-00 00:00:00", "2024-00-00 00:00:00", "0001-01-01 00:00:00", "9999-12-31 23:59:59.999999"]
SQLITE_DATES = [
    "",
    "yesterday",
    "0001-01-01 00:00:00",
    "99999-01-01 00:00:00",
    "2024-13-41 00:00:00.000000",
    "9999-12-31 23:59:59.999999",
]
#: of every type that SQLite knows
SQLITE_ANY = [5, -1.5, 2**62, math.inf, b"", b"\xff\xfe", "x", "", Text(b"\xff\xfe"), Text(b"a\x00b")]

JSON_DATES = ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00", "noon", "", "2024-01-01"]
#: of every type that JSON knows
JSON_ANY = [
    None,
    5,
    -1,
    2**80,
    1.5,
    True,
    "",
    "x" * 5_000,
    "\ud800",
    "\x00",
    [],
    [1],
    {},
    {"a": {"b": 1}},
    {"__type__": "datetime", "__value__": "x"},
]
STOCK = [
    b"",
    b"null",
    b"5",
    b"[]",
    b"{}",
    b"{",
    b'{"status": "SUCCESS"}',
    b'{"status": 5, "result": 1}',
    b"\xff\xfe",
    b'{"status": "SUCCESS", "result": 1, "date_done": "0001-01-01T00:00:00+14:00", "traceback": null, "children": []}',
    b'{"status": "SUCCESS", "result": 1, "date_done": {"__type__": "datetime", "__value__": 5}}',
    b'{"status": "FAILURE", "result": {"exc_type": []}, "date_done": [], "traceback": {}, "children": 5}',
    b'{"status": "SUCCESS", "result": 1, "children": [[1]], "retries": "x", "stamped_headers": [[1]], "name": {}}',
    b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x06status\x94\x8c\x07SUCCESS\x94\x8c\x06result\x94K\x01u.",
    b'{"rootcellar":"1',
    b'{"rootcellar":"1S00000000',
    b'!"rootcellar":"1' + b"0" * 60,
    b'{"rootcellar":"1' + b"S" * 80 + b'"}',
    DEEP.encode(),
]

MONGO_ANY = [
    *(
        None,
        5,
        -1,
        2**62,
        1.5,
        math.nan,
        True,
        "",
        "x",
        "x" * 5_000,
        b"",
        b"\xff",
        b"\x80\x04N.",
        [],
        [1],
        [[1, 2], 3],
        {},
        {"a": 1},
    ),
    *(datetime(1, 1, 1, tzinfo=timezone.utc), datetime(9999, 12, 31, tzinfo=timezone.utc)),
    *(bson.ObjectId(b"123456789012"), bson.Decimal128("1.5"), bson.Int64(2**40), bson.Regex("x"), bson.Timestamp(1, 1)),
]

HEADER_ANY = [
    *(
        None,
        "",
        "x",
        "x" * 10_000,
        "\x00",
        "\ud800",
        5,
        -1,
        2**80,
        1.5,
        math.nan,
        math.inf,
        True,
        b"",
        b"\xff",
        [],
        [1],
        (),
        {},
        {"a": {"b": 1}},
    ),
    *(uuid.UUID(int=5), {1, 2}, object(), datetime(1, 1, 1), datetime(9999, 12, 31, tzinfo=timezone.utc), *JSON_DATES),
    *([[[]]] * 5, {"routing_key": [5]}, {"routing_key": "x" * 5_000}, ["a", 5], {"a": object()}),
]
#: every header, and every other attribute of a request, that is read when a result is stored
HEADERS = [
    *("task", "hostname", "delivery_info", "retries", "group", "group_index", "parent_id", "root_id", "stamps"),
    *(
        "stamped_headers",
        "rootcellar_sent_at",
        "rootcellar_started_at",
        "result_synchronous_commit",
        "chord",
        "args",
        "kwargs",
    ),
]
