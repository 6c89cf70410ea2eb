"""The cases in which a filter is easily misunderstood, each on every server that searches by SQL, and on Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from rootcellar.history.filters import Clock, parse, sentence
from rootcellar.history.filters.notes import notes
from rootcellar.history.lists import Tasks
from rootcellar.payloads import codec_of
from rootcellar.payloads.redaction.per_task import Redactor
from rootcellar.records import ENCRYPTED, NO_DATE, Payload, TaskRecord
from rootcellar.stores import Store
from tests.history import stores

#: a Wednesday, 14:30 in Berlin
NOW = datetime(2026, 11, 4, 13, 30, tzinfo=timezone.utc)
CLOCK = Clock(NOW, ZoneInfo("Europe/Berlin"))


def value(data: Any) -> Payload:
    return Payload(json.dumps(data).encode())


def task(task_id: str, **fields: Any) -> TaskRecord:
    ended = {"done_at": NOW - timedelta(minutes=1)} if fields.get("state") != "STARTED" else {}
    return TaskRecord(**{"task_id": task_id, "state": "SUCCESS", **ended, **fields})


def failure(task_id: str, name: str, message: str, module: str = "builtins") -> TaskRecord:
    stored = {"exc_type": name, "exc_message": [message], "exc_module": module}
    return task(task_id, state="FAILURE", result=value(stored))


RECORDS = [
    task("in-kwargs", kwargs=value({"order_id": 123})),
    task("in-object", args=value([{"order_id": "123"}])),
    task("first", args=value([123, 7])),
    task("text", args=value(["123"])),
    task("large", kwargs=value({"n": 2**53 + 1})),
    task("hundred", kwargs=value({"n": 100})),
    task("no-number", kwargs=value({"n": "many"})),
    task("null", kwargs=value({"x": None})),
    task("code", kwargs=value({"code": "007"})),
    task("dotted", kwargs=value({"user.name": "ann"})),
    task("deep", result=value({"items": [{"sku": "A-1"}, {"sku": "B-2"}]})),
    task("low", queue="low"),
    task("high", queue="high"),
    task("no-name", name=None),
    task("empty-name", name=""),
    task("name", name="a_b"),
    task("other-name", name="aXb"),
    task("star", name="a*b"),
    task("upper", name="A_B"),
    task("trailing", name="a_b "),
    failure("timeout", "Timeout", "read timed out", "requests.exceptions"),
    failure("connect", "ConnectTimeout", "CONNECT timed out", "requests.exceptions"),
    failure("key", "KeyError", "'x'"),
    task("slow", sent_at=NOW - timedelta(hours=1), started_at=NOW - timedelta(seconds=91)),
    task("undated", done_at=NO_DATE),
    task("november", done_at=datetime(2026, 10, 31, 23, 30, tzinfo=timezone.utc)),
    task("running", state="STARTED", started_at=NOW - timedelta(minutes=5)),
    task("sealed", kwargs=Payload(b"\x00", content_encoding="binary", key_id=f"{ENCRYPTED}k1")),
    task("no-json", result=Payload(b'{"n": NaN}')),
    task("decomposed", name="cafe\u0301"),
]

CASES = [
    # a name is a keyword argument, or a key of a positional object; a number is a position
    ("args.order_id:123", {"in-kwargs", "in-object"}),
    ("args.0:123", {"first", "text"}),
    # a number is also a text that looks like it; a text in quotes is only a text
    ('args.0:"123"', {"text"}),
    ("kwargs.code:007", {"code"}),
    ("kwargs.x:null", {"null"}),
    ("kwargs.x:any", {"null"}),
    ("-kwargs.x:any id:in-*", {"in-kwargs", "in-object"}),
    # numbers are exact, and what is no number has no order
    ("kwargs.n:9007199254740993", {"large"}),
    ("kwargs.n:9007199254740992", set()),
    ("kwargs.n:1e2", {"hundred"}),
    ("kwargs.n:>=100", {"hundred", "large"}),
    ("kwargs.n:<1000", {"hundred"}),
    # what has no value is not equal
    ("-queue:low id:high,low,name", {"high", "name"}),
    ("-queue:any id:high,low,name", {"name"}),
    # a type matches as a whole; _ and % are letters; a star can be one
    ("error:Timeout*", {"timeout"}),
    ("error:*Timeout*", {"timeout", "connect"}),
    ("error:requests.*", {"timeout", "connect"}),
    ('error.message:"TIMED out"', {"timeout", "connect"}),
    ("task:a_b", {"name"}),
    ("task:a\\*b", {"star"}),
    ("task:a%b", set()),
    ('task:"a_b "', {"trailing"}),
    ("task:none id:no-name,empty-name", {"no-name"}),
    ('task:""', {"empty-name"}),
    # 30 is seconds; times need both ends; an unknown one is found by none
    ("runtime:<=30", set()),
    ("runtime:10s..1m", {"slow"}),
    ("runtime:30s..1m", {"slow"}),
    ("runtime:31", {"slow"}),
    ("wait:>58m", {"slow"}),
    ("wait:none id:slow,running", {"running"}),
    ("done:none id:slow,undated,running", {"undated", "running"}),
    # a day and a month are those of the reader
    ("done:2026-11-01", {"november"}),
    ("done:2026-10", set()),
    ("done:2026-11 id:november", {"november"}),
    ("until:2026-11-01 -id:undated", set()),
    # words are found in the id, the name, and the error, in any case
    ("TIMED", {"timeout", "connect"}),
    ("no- OR Connect", {"no-name", "no-number", "no-json", "connect"}),
    ("caf\u00e9", {"decomposed"}),
    ("\"'x'\"", {"key"}),
    # any depth, any element, and a name with a dot
    ("result.items.*.sku:B*", {"deep"}),
    ("result:A-1", {"deep"}),
    ('kwargs."user.name":ann', {"dotted"}),
    ("result.n:NaN", {"no-json"}),
    # groups of states
    ("state:Failed", {"timeout", "connect", "key"}),
    ("state:unfinished", {"running"}),
    ("-(state:succeeded OR state:failed)", {"running"}),
    # a text that no server stores finds nothing
    ('task:"a\x00"', set()),
    ('id:"\ud800"', set()),
]


@pytest.fixture(scope="module", params=[*stores.SQL, stores.REDIS], ids=lambda store: store.name)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with stores.opened(request.param, request) as store:
        for record in RECORDS:
            store.put(record)
        yield store


def test_filter_means_what_its_page_says(store: Store) -> None:
    for text, expected in CASES:
        page = Tasks(store, codec_of({}), parse(text, CLOCK), CLOCK, budget=20).page()
        assert {record.task_id for record in page.records} == expected, text


def test_page_counts_what_it_could_not_read(store: Store) -> None:
    page = Tasks(store, codec_of({}), parse("kwargs.order_id:123", CLOCK), CLOCK, budget=20).page()
    assert [record.task_id for record in page.records] == ["in-kwargs"]
    assert page.unread == 1
    # another term decides about the encrypted one
    page = Tasks(store, codec_of({}), parse("kwargs.order_id:123 -id:sealed", CLOCK), CLOCK, budget=20).page()
    assert page.unread == 0


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("state:FALIURE", "did you mean FAILURE?"),
        ("state:faild", "did you mean failed?"),
        ("state:PACKED", ""),
        ("state:failed state:succeeded", "nothing can match"),
        ("queue:a queue:b", "queue:a,b"),
        ("queue:a -queue:b", ""),
        ("queue:a,b queue:b", ""),
        ("kwargs.password:x", "is masked"),
        ("args.user.password:x", "is masked"),
        ("kwargs.order_id:1", ""),
    ],
)
def test_filter_that_may_not_mean_what_it_seems_has_a_note(text: str, note: str) -> None:
    found = notes(parse(text, CLOCK), Redactor().masks)
    assert note in " ".join(found)
    assert bool(found) == bool(note)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "every task; the newest first"),
        ("state:failed task:reports.*", "tasks in state failed, and whose name is reports.*; the newest first"),
        ("runtime:>30", "tasks whose runtime is more than 30s; the newest first"),
        ("since:9:00", "tasks at or after 2026-11-04 09:00:00+01:00; the newest first"),
        (
            "done:2026-10-25",
            "tasks ended from 2026-10-25 00:00:00+02:00 until before 2026-10-26 00:00:00+01:00; the newest first",
        ),
        ("-queue:low", "tasks that are not (whose queue is low); the newest first"),
        ("sort:-runtime since:1h", "tasks at or after 2026-11-04 13:30:00+01:00; by runtime, the largest first"),
        # a time that clocks left out is shown as the one after it
        ("since:2026-03-29T02:30", "tasks at or after 2026-03-29 03:30:00+02:00; the newest first"),
        ('task:"\u202eevil"', 'tasks whose name is "\\u202eevil"; the newest first'),
    ],
)
def test_sentence_says_what_is_asked(text: str, said: str) -> None:
    assert sentence(parse(text, CLOCK), CLOCK) == said
