"""The text of a filter: what is understood, what is refused, and that each tree has one text."""

from __future__ import annotations

import string
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootcellar.history.filters import Clock, FilterWrong, parse
from rootcellar.history.filters.fields import FIELDS, Kind
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

BERLIN = ZoneInfo("Europe/Berlin")
#: a Wednesday, 14:30 in Berlin
NOW = datetime(2026, 11, 4, 13, 30, tzinfo=timezone.utc)
CLOCK = Clock(NOW, BERLIN)


def field(name: str, *values: Any, path: str = "") -> Field:
    return Field(name, values, tuple(Step(None if step == "*" else step) for step in path.split(".") if step))


def pattern(*parts: str) -> Pattern:
    return Pattern(parts)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("", None),
        ("timeout", Text("timeout")),
        ("or", Text("or")),
        ('"OR"', Text("OR")),
        ("http://x/y", Text("http://x/y")),
        ("C:\\x", Text("C:\\x")),
        ("12:30", Text("12:30")),
        ("\"KeyError: 'x'\"", Text("KeyError: 'x'")),
        ("a b", And((Text("a"), Text("b")))),
        ("a AND b", And((Text("a"), Text("b")))),
        ("a OR b c", Or((Text("a"), And((Text("b"), Text("c")))))),
        ("(a OR b) c", And((Or((Text("a"), Text("b"))), Text("c")))),
        ("-(a OR b)", Not(Or((Text("a"), Text("b"))))),
        ("NOT a", Not(Text("a"))),
        ("state:failed", field("state", pattern("failed"))),
        ("state:Failed", field("state", pattern("failed"))),
        ("state:PACKED", field("state", pattern("PACKED"))),
        ("task:shop.*", field("task", pattern("shop.", ""))),
        ("task:a**b", field("task", pattern("a", "b"))),
        ("task:\\*", field("task", pattern("*"))),
        ('task:""', field("task", Pattern(("",), is_quoted=True))),
        ("task:none", field("task", Presence(False))),
        ('task:"none"', field("task", Pattern(("none",), is_quoted=True))),
        ("queue:a,b", field("queue", pattern("a"), pattern("b"))),
        ('queue:"a,b"', field("queue", Pattern(("a,b",), is_quoted=True))),
        ("error.message:timed", field("error.message", Pattern(("timed",), is_quoted=True))),
        ("is:retried", field("is", pattern("retried"))),
        ("runtime:30", field("runtime", Duration(Decimal(30)))),
        ("runtime:1m30s", field("runtime", Duration(Decimal(90)))),
        ("runtime:250ms..1.5h", field("runtime", Range(Duration(Decimal("0.25")), Duration(Decimal(5400))))),
        ("wait:>5m", field("wait", Comparison(">", Duration(Decimal(300))))),
        ("retries:2..", field("retries", Range(Number(Decimal(2)), None))),
        ("size:<=1.5MB", field("size", Comparison("<=", Size(1_500_000)))),
        ("args.order_id:123", field("args", Number(Decimal(123)), path="order_id")),
        ('args.0:"123"', field("args", Pattern(("123",), is_quoted=True), path="0")),
        ("kwargs.x:null", field("kwargs", Literal(None), path="x")),
        ("kwargs.x:1e2", field("kwargs", Number(Decimal(100)), path="x")),
        ("-kwargs.x:any", Not(field("kwargs", Presence(True), path="x"))),
        ('kwargs."user.name":ann', Field("kwargs", (pattern("ann"),), (Step("user.name"),))),
        ("result.items.*.sku:A*", field("result", pattern("A", ""), path="items.*.sku")),
        ("done:2026-11-01", field("done", Moment("2026-11-01"))),
        ("sent:9:00..12:00", field("sent", Range(Moment("9:00"), Moment("12:00")))),
        ("since:Yesterday", field("since", Moment("yesterday"))),
    ],
)
def test_text_has_its_tree(text: str, tree: Any) -> None:
    assert parse(text, CLOCK) == Filter(tree)


def test_sort_is_no_condition() -> None:
    assert parse("sort:-runtime state:failed since:1h", CLOCK) == Filter(
        And((field("state", pattern("failed")), field("since", Moment("1h")))), "runtime", is_descending=True
    )
    assert parse("sort:done", CLOCK) == Filter(None, "done")


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("fro:x", 0, "the fields are"),
        ("a stat:x", 2, "did you mean state:?"),
        ("Traceback: in x", 0, "quotes as a whole"),
        ("task:", 0, 'or "" for the empty text'),
        ("task:a,,b", 0, "each side of the comma"),
        ("--x", 1, "leave out both"),
        ("a -", 2, "right after it"),
        ("a - b", 2, "right after it"),
        ("a OR", 4, "leave out the operator"),
        ("OR a", 0, "leave out the operator"),
        ("a OR OR b", 5, "leave out the operator"),
        ("()", 0, "between them"),
        ("(a", 0, "write )"),
        ("a)", 1, "leave it out"),
        ("f(x)", 1, "blank before it"),
        ('"a', 0, 'another "'),
        ('""', 0, "between the quotes"),
        ("task:>x", 5, "in quotes"),
        ("task.x:y", 0, "write task: alone"),
        ("kwargs..x:1", 0, "between the dots"),
        ("is:lost", 3, "retried"),
        ("sort:size", 0, "runtime"),
        ("a OR sort:done", 14, "outside of OR"),
        ("(sort:done)", 1, "end of the filter"),
        ("-sort:done", 1, "end of the filter"),
        ("sort:done sort:done", 10, "once"),
        ("runtime:1M", 8, "m means minutes"),
        ("runtime:soon", 8, "1m30s"),
        ("runtime:>", 8, "after >"),
        ("runtime:..", 8, "one side"),
        ("retries:two", 8, "a number"),
        ("kwargs.x:>abc", 9, "a number"),
        ("kwargs.x:1e999", 9, "a number between"),
        ("size:1XB", 5, "number of bytes"),
        ("since:someday", 6, "a day (2026-11-01"),
        ("since:1h..2h", 6, "one moment"),
        ("done:2026-13-01", 5, ""),
        ("done:2026-10-25T02:30", 5, "2026-10-25T02:30:00+02:00 or 2026-10-25T02:30:00+01:00"),
        ("done:0001-01-01", 5, "between the years"),
        ("since:500000w", 6, "not so long ago"),
        ("task:" + "*a" * 9, 5, "8 stars"),
        ("x" * 2_049, 2_048, "2,048 characters"),
        ("a " * 65, 128, "shorter filter"),
        ("(" * 6 + "a" + ")" * 6, 5, "at most 5"),
        ("kwargs." + ".".join("abcdefghi") + ":1", 0, "8 steps"),
    ],
)
def test_term_that_is_not_understood_is_refused_at_its_place(text: str, position: int, words: str) -> None:
    with pytest.raises(FilterWrong) as caught:
        parse(text, CLOCK)
    assert caught.value.position == position
    assert words in caught.value.remedy
    assert "\n" not in str(caught.value)


@given(st.text(max_size=200) | st.text('ab:"\\*()-.,<>=1 ORkwargs\n\x00\ud800', max_size=60))
def test_any_text_is_understood_or_refused(text: str) -> None:
    try:
        tree = parse(text, CLOCK)
    except FilterWrong as exc:
        wrong = exc
    else:
        assert parse(str(tree), CLOCK) == tree
        return
    assert 0 <= wrong.position <= len(text)
    assert wrong.remedy


# -- one text for each tree

_names = st.text(string.ascii_letters + string.digits + '._-@ ,:"*\\()<>=é\u202e', min_size=1, max_size=8)
_patterns = st.builds(
    lambda parts, is_open: Pattern(("", *parts, "") if is_open else tuple(parts)),
    st.lists(_names, min_size=1, max_size=3),
    st.booleans(),
)
_texts = _patterns | st.builds(lambda text: Pattern((text,), is_quoted=True), _names | st.just(""))
_decimals = st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=0, max_value=10**9).map(
    Decimal.normalize
)
_moments = st.sampled_from(["2h", "yesterday", "monday", "2026-11-01", "2026-11", "9:00", "2026-11-01T10:00Z"]).map(
    Moment
)


def _ordered(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    ranges = st.builds(Range, scalars, scalars) | st.builds(lambda low: Range(low, None), scalars)
    return scalars | ranges | st.builds(Comparison, st.sampled_from([">", ">=", "<", "<=", "="]), scalars)


_values: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.STATE: st.sampled_from(["failed", "unfinished", "SUCCESS", "PACKED"]).map(pattern),
    Kind.PATTERN: _texts,
    Kind.TEXT: st.builds(lambda text: Pattern((text,), is_quoted=True), _names),
    Kind.GROUP: st.integers(0, 2**40 - 1).map(lambda number: pattern(text_of_group(number))),
    Kind.NUMBER: _ordered(st.builds(Number, _decimals)),
    Kind.DURATION: _ordered(st.builds(Duration, _decimals)),
    Kind.SIZE: _ordered(st.builds(Size, st.integers(0, 10**12))),
    Kind.MOMENT: _moments,
    Kind.TIMES: _ordered(_moments),
    Kind.JSON: _ordered(st.builds(Number, _decimals)) | st.builds(Literal, st.sampled_from([True, False, None])),
}
_steps = st.builds(Step, st.none() | _names)


@st.composite
def _fields(draw: st.DrawFn) -> Field:
    name = draw(st.sampled_from([name for name, each in FIELDS.items() if each.kind is not Kind.SORT]))
    kind = FIELDS[name]
    path = tuple(draw(st.lists(_steps, min_size=1, max_size=3))) if kind.kind is Kind.JSON else ()
    values = st.sampled_from(kind.words).map(pattern) if kind.words else _values[kind.kind]
    return Field(name, tuple(draw(st.lists(values | st.builds(Presence, st.booleans()), min_size=1, max_size=2))), path)


def _flat(kind: Any) -> Any:
    def build(terms: list[Any]) -> Any:
        flat = [each for term in terms for each in (term.terms if isinstance(term, kind) else [term])]
        return kind(tuple(flat))

    return build


def _nodes(depth: int) -> st.SearchStrategy[Any]:
    leaves = _fields() | st.builds(Text, _names.filter(str.strip))
    if not depth:
        return leaves
    inner = _nodes(depth - 1)
    several = st.lists(inner, min_size=2, max_size=3)
    negated = st.builds(Not, inner.filter(lambda node: not isinstance(node, Not)))
    return leaves | negated | several.map(_flat(And)) | several.map(_flat(Or))


@given(_nodes(2))
def test_tree_comes_back_from_its_text(tree: Any) -> None:
    assert parse(str(Filter(tree)), CLOCK) == Filter(tree)


# -- moments


@pytest.mark.parametrize(
    ("text", "start", "length"),
    [
        ("now", "2026-11-04T13:30:00", timedelta()),
        ("2h", "2026-11-04T11:30:00", timedelta()),
        ("1m30s", "2026-11-04T13:28:30", timedelta()),
        ("today", "2026-11-03T23:00:00", timedelta(days=1)),
        ("yesterday", "2026-11-02T23:00:00", timedelta(days=1)),
        ("wednesday", "2026-11-03T23:00:00", timedelta(days=1)),
        ("thursday", "2026-10-28T23:00:00", timedelta(days=1)),
        ("2026-11-01", "2026-10-31T23:00:00", timedelta(days=1)),
        ("2026-10-25", "2026-10-24T22:00:00", timedelta(hours=25)),
        ("2026-03-29", "2026-03-28T23:00:00", timedelta(hours=23)),
        ("2026-10", "2026-09-30T22:00:00", timedelta(days=31, hours=1)),
        ("2026-12", "2026-11-30T23:00:00", timedelta(days=31)),
        ("9:00", "2026-11-04T08:00:00", timedelta(minutes=1)),
        ("23:15:30", "2026-11-03T22:15:30", timedelta(seconds=1)),
        ("2026-11-01T10:00", "2026-11-01T09:00:00", timedelta(minutes=1)),
        ("2026-11-01T10:00:05Z", "2026-11-01T10:00:05", timedelta(seconds=1)),
        ("2026-11-01T10:00:05.25+0530", "2026-11-01T04:30:05.250000", timedelta(milliseconds=10)),
        # clocks went from 2:00 to 3:00
        ("2026-03-29T02:30", "2026-03-29T01:30:00", timedelta(minutes=1)),
    ],
)
def test_moment_is_in_the_zone_of_its_reader(text: str, start: str, length: timedelta) -> None:
    extent = CLOCK.extent(Moment(text))
    assert extent.start.astimezone(timezone.utc).isoformat() == f"{start}+00:00"
    assert extent.end - extent.start == length


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2026-11-01", "2026-11-01T04:00", "2026-11-02T05:00"),
        ("2026-10-31", "2026-10-31T04:00", "2026-11-01T04:00"),
        ("2026-11", "2026-11-01T04:00", "2026-12-01T05:00"),
        ("sunday", "2026-11-01T04:00", "2026-11-02T05:00"),
    ],
)
def test_day_begins_at_the_first_midnight_where_clocks_are_set_back_to_it(text: str, start: str, end: str) -> None:
    clock = Clock(NOW, ZoneInfo("America/Havana"))
    extent = clock.extent(Moment(text))
    assert [moment.strftime("%Y-%m-%dT%H:%M") for moment in (extent.start, extent.end)] == [start, end]
    with pytest.raises(ValueError, match="there are two of this time"):
        clock.extent(Moment("2026-11-01T00:30"))
