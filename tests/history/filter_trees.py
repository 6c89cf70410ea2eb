"""Generated filters and generated tasks that they may find, for tests that compare the readers of a filter."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from rootcellar.history.filters.fields import FIELDS, LOOKED_UP, Kind
from rootcellar.history.filters.tree import (
    And,
    Comparison,
    Duration,
    Field,
    Filter,
    Literal,
    Moment,
    Not,
    Number,
    Or,
    Pattern,
    Presence,
    Range,
    Size,
    Step,
    Text,
)
from rootcellar.history.grouping.identity import text_of_group
from rootcellar.records import ENCRYPTED, NO_DATE, TYPED_JSON, Payload, TaskRecord

#: the present of every list
NOW = datetime(2026, 11, 4, 13, 30, tzinfo=timezone.utc)

NAMES = [
    "shop.pay", "Shop.Pay", "shop.pay ", "shop_pay", "shopXpay", "shop%pay", "a*b", "a\\b", "a[b", "a?b", "ü.x", "Ü.x",
    "e\u0301.x", "straße", "STRASSE", "\u202ertl", "none", "", "x' OR 1=1 --", "{task}", "%(p0)s", ":p0", "😀",
]  # fmt: skip
IDS = ["7c1f0a", "7C1F0A", "7c1f0b", "parent-1"]
WORKERS = ["celery@web1", "celery@web2", "celery@Web1"]
STATES = ["SUCCESS", "FAILURE", "REVOKED", "STARTED", "RETRY", "PACKED", "SENT"]
ENDED = {"SUCCESS", "FAILURE", "REVOKED"}
LEAVES: list[Any] = [
    1, 0, -1, 100, "100", 123, "123", "007", 7, 2**53, 2**53 + 1, 10**30, 0.1, 1e300, -2.5, True, False, None, "true",
    "null",
    "", "a", "A", "a_b", "aXb", "50%", "50 percent", "x*y", 'say "x"', "C:\\x", "é", "e\u0301", "\u017ftop", "😀",
    "line\nbreak", "NaN",
]  # fmt: skip
#: values that only exact bytes hold
ODD_LEAVES: list[Any] = [float("nan"), "nul\x00", "lone\ud800", float("inf")]
KEYS = ["order_id", "user.name", "a b", 'q"q', "0", "1", "items", "größe", "-1"]
MESSAGES = [
    "timed out after 30 s",
    "Timed Out",
    "KeyError: 'x'",
    "größe ist falsch",
    "C:\\temp\\x",
    "STRASSE",
    "ﬁne",
    "%",
]
TYPES = ["Timeout", "ConnectionTimeout", "TimeoutError", "KeyError", "Time_out"]
MODULES = ["requests", "shop.errors", None]
GROUPS = [0, 1, 2**40 - 1, 123_456_789]


@dataclass(slots=True)
class Fact:
    """A task as the oracle knows it: the record, and its values as plain data.

    Attributes:
        record: what is stored.
        values: the field -> its value, for the fields that can be read.
        unread: the fields that are stored and cannot be read.
    """

    record: TaskRecord
    values: dict[str, Any] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)


def facts(seed: int, count: int) -> list[Fact]:
    """Return tasks with values that filters confuse."""
    chance = random.Random(seed)
    return [_fact(chance, number) for number in range(count)]


def _fact(chance: random.Random, number: int) -> Fact:
    state = chance.choice(STATES)
    sent = _moment(chance)
    started = None if state == "SENT" or chance.random() < 0.2 else _later(chance, sent or NOW)
    done = None
    if state in ENDED:
        done = NO_DATE if chance.random() < 0.05 else _later(chance, started or sent or NOW)
    values: dict[str, Any] = {}
    if chance.random() < 0.7:
        values["args"] = [_value(chance, 2) for _ in range(chance.randrange(4))]
        values["kwargs"] = {key: _value(chance, 2) for key in chance.sample(KEYS, chance.randrange(4))}
    if chance.random() < 0.3:
        values["stamps"] = {key: _value(chance, 1) for key in chance.sample(KEYS, 1)}
    if state in ("FAILURE", "REVOKED", "RETRY"):
        values["result"] = _failure(chance)
    elif chance.random() < 0.7:
        values["result"] = _value(chance, 2)
    fact = Fact(TaskRecord(task_id=f"{chance.choice(('task', 'Task', 'größe'))}-{number:04}", state=state))
    payloads = {name: _payload(chance, name, value, fact) for name, value in values.items()}
    retries = chance.choice([None, 0, 1, 2, 3])
    fact.record = TaskRecord(
        task_id=fact.record.task_id,
        state=state,
        name=chance.choice([*NAMES, None]),
        queue=chance.choice(["low", "high", "low ", "Low", None]),
        worker=chance.choice([*WORKERS, None]),
        retries=retries,
        group_id=chance.choice([*IDS, None]),
        parent_id=chance.choice([*IDS, fact.record.task_id, None]),
        root_id=chance.choice([*IDS, None]),
        sent_at=sent,
        started_at=started,
        done_at=done,
        expires_at=chance.choice([None, NOW + timedelta(days=chance.randrange(10))]),
        traceback=chance.choice([None, "Traceback"]) if state == "FAILURE" else None,
        failure_group=chance.choice([*GROUPS, None]) if state == "FAILURE" else None,
        **payloads,
    )
    return fact


def _moment(chance: random.Random) -> datetime | None:
    if chance.random() < 0.1:
        return None
    ago = chance.choice([0, 1, 59, 60, 3_600, 7_200, 86_399, 86_400, 500_000, 20_000_000])
    return NOW - timedelta(seconds=ago, microseconds=chance.choice([0, 0, 1, 999_999, 500_000]))


def _later(chance: random.Random, moment: datetime) -> datetime:
    length = chance.choice([0, 1, 10, 30, 60, 300, 301, 3_600, -5])
    return moment + timedelta(seconds=length, microseconds=chance.choice([0, 0, 1, 999_999]))


def _value(chance: random.Random, depth: int) -> Any:
    kind = chance.random()
    if depth and kind < 0.2:
        return [_value(chance, depth - 1) for _ in range(chance.randrange(3))]
    if depth and kind < 0.4:
        return {key: _value(chance, depth - 1) for key in chance.sample(KEYS, chance.randrange(3))}
    return chance.choice(ODD_LEAVES) if kind > 0.95 else chance.choice(LEAVES)


def _failure(chance: random.Random) -> Any:
    if chance.random() < 0.1:
        return chance.choice(["gone", None, [1], {"exc_type": 5, "exc_message": None}])
    return {
        "exc_type": chance.choice(TYPES),
        "exc_message": chance.choice([[chance.choice(MESSAGES)], chance.choice(MESSAGES), ["a", 5, None], []]),
        "exc_module": chance.choice(MODULES),
    }


def _payload(chance: random.Random, name: str, value: Any, fact: Fact) -> Payload:
    body = json.dumps(value, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    kind = chance.random()
    if kind < 0.05:
        fact.unread.add(name)
        return Payload(b"\x00sealed", content_encoding="binary", key_id=f"{ENCRYPTED}k1")
    if kind < 0.08:
        fact.unread.add(name)
        return Payload(b"- yaml", "application/x-yaml")
    fact.values[name] = json.loads(body, parse_float=Decimal, parse_constant=str)
    if kind < 0.15:
        return Payload(gzip.compress(body), compression="application/x-gzip", content_encoding="binary")
    return Payload(body, TYPED_JSON if kind < 0.2 else "application/json")


# -- filters


def _patterns(texts: list[str]) -> st.SearchStrategy[Any]:
    whole = st.sampled_from(texts)

    @st.composite
    def globs(draw: st.DrawFn) -> Pattern:
        text = draw(whole)
        begin, end = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
        return Pattern((text[:begin], text[end:]))

    exact = st.builds(lambda text: Pattern((text,), is_quoted=True), whole | st.just("nul\x00") | st.just("lone\udc00"))
    return exact | globs()


def _ordered(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    ranges = st.builds(Range, scalars, scalars) | st.builds(lambda low: Range(low, None), scalars)
    return scalars | ranges | st.builds(Comparison, st.sampled_from([">", ">=", "<", "<=", "="]), scalars)


_numbers = st.sampled_from(
    [Number(Decimal(text), text) for text in ("0", "1", "-1", "7", "007", "100", "1e2", "123", "0.1", "-2.5", "1e300")]
    + [Number(Decimal(number), str(number)) for number in (2**53, 2**53 + 1, 10**30, 10**30 + 1)]
)
_durations = st.sampled_from([0, 1, 30, 60, 300, 301, 3_600]).map(lambda seconds: Duration(Decimal(seconds))) | st.just(
    Duration(Decimal("0.0000005"))
)
_moments = st.sampled_from(
    ["now", "1h", "2h", "1d", "5d", "1s", "2026-11-04", "2026-11", "2026-11-04T12:30Z", "2026-11-04T13:29:59.000001Z"]
).map(Moment)
_values: dict[str, st.SearchStrategy[Any]] = {
    "state": _patterns(STATES)
    | st.sampled_from(["failed", "succeeded", "running", "done", "unfinished"]).map(lambda word: Pattern((word,))),
    "task": _patterns(NAMES),
    "queue": _patterns(["low", "high", "low ", "Low"]),
    "worker": _patterns(WORKERS),
    "id": _patterns(["task-0001", "Task-0002", "größe-0003", "task-0100"]),
    "group": _patterns(IDS),
    "root": _patterns(IDS),
    "parent": _patterns(IDS),
    "error": _patterns([*TYPES, "requests.Timeout", "shop.errors.KeyError", "a"]),
    "error.message": st.sampled_from([*MESSAGES, "time", "ss", "fi", "null", "5", "\\", '"', "a 5"]).map(
        lambda text: Pattern((text,), is_quoted=True)
    ),
    "failure": st.sampled_from([*GROUPS, 99]).map(lambda group: Pattern((text_of_group(group),))),
    "retries": _ordered(_numbers),
    "runtime": _ordered(_durations),
    "wait": _ordered(_durations),
    "total": _ordered(_durations),
    "size": _ordered(st.sampled_from([0, 1, 3, 4, 10, 50, 10**12]).map(Size)),
    "since": _moments,
    "until": _moments,
    "sent": _ordered(_moments),
    "started": _ordered(_moments),
    "done": _ordered(_moments),
    "expires": _ordered(_moments),
}
_json_values = (
    _ordered(_numbers)
    | st.sampled_from([True, False, None]).map(Literal)
    | _patterns([leaf for leaf in LEAVES if isinstance(leaf, str)] + ["nul\x00", "lone\ud800"])
)
_steps = st.builds(Step, st.none() | st.sampled_from(KEYS))


@st.composite
def _fields(draw: st.DrawFn) -> Field:
    name = draw(
        st.sampled_from([name for name, each in FIELDS.items() if each.kind is not Kind.SORT] + ["error.message"])
    )
    words = [word for word in FIELDS[name].words if word not in LOOKED_UP] if name in FIELDS else []
    is_json = name in FIELDS and FIELDS[name].kind is Kind.JSON
    least = 1 if name == "stamp" else 0
    path = tuple(draw(st.lists(_steps, min_size=least, max_size=3))) if is_json else ()
    if words:
        values = st.sampled_from(words).map(lambda word: Pattern((word,)))
    else:
        values = _json_values if is_json else _values[name]
    either = values | st.builds(Presence, st.booleans())
    return Field(name, tuple(draw(st.lists(either, min_size=1, max_size=2))), path)


def _joined(kind: Any) -> Any:
    def build(terms: list[Any]) -> Any:
        flat = [each for term in terms for each in (term.terms if isinstance(term, kind) else [term])]
        return kind(tuple(flat))

    return build


def nodes(depth: int = 2) -> st.SearchStrategy[Any]:
    """Return conditions of filters."""
    texts = st.sampled_from(
        ["TIMED", "shop", "größe", "ss", "strasse", "fi", "task-00", "5", "x' or", "%", "_", "\x00"]
    )
    leaves = _fields() | st.builds(Text, texts)
    if not depth:
        return leaves
    inner = nodes(depth - 1)
    several = st.lists(inner, min_size=2, max_size=3)
    negated = st.builds(Not, inner.filter(lambda node: not isinstance(node, Not)))
    return leaves | negated | several.map(_joined(And)) | several.map(_joined(Or))


filters = st.builds(Filter, nodes())
