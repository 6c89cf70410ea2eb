"""Texts that nobody writes on purpose: a filter answers or is refused, and nothing else happens."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timezone

import pytest

from rootcellar.history.filters import Clock, FilterWrong, parse
from rootcellar.history.filters.fields import FIELDS
from rootcellar.history.filters.tree import quoted
from rootcellar.history.lists import Tasks
from rootcellar.payloads import codec_of
from rootcellar.stores import Store
from tests.helpers import HEAVY
from tests.history import stores
from tests.history.filter_trees import NOW, facts
from tests.history.oracle import holds
from tests.seeds import SEED, new_random

CLOCK = Clock(NOW, timezone.utc)
#: strings that are parsed; every twentieth of them is asked on each server, all of them in `make test-long`
STRINGS = 20_000 if HEAVY else 2_000
ASKED = STRINGS if HEAVY else STRINGS // 20
ROWS = 40
FACTS = facts(SEED, ROWS)
TEXTS = ("task", "queue", "worker", "id", "group", "root", "parent", "state", "error", "error.message")
PIECES = [
    *(f"{name}:" for name in FIELDS), "args.", "kwargs.x:", "result.*.", "stamp.a:", "error.message:",
    "any", "none", ">", "<=",
    "..", ",", "*", "-", "NOT ", " OR ", " AND ", "(", ")", '"', "\\", " ", "\n", "\x00", "\ud800",
    "\u202e", "é", "😀", "'",
    ";", "--", "%", "_", "$1", ":p0", "%(p0)s", "{task}", "1", "007", "1e400", "-5", "30s", "2h",
    "2026-11-01", "monday",
    "9:00", "failed", "FAILURE", "shop.pay", "true", "null", "7K2Q9XMD", "[", "?", "#", "/*", "*/", "\t", "a",
]  # fmt: skip
HOSTILE = [
    "' OR '1'='1", "'; DROP TABLE celery_taskmeta; --", '" OR ""="', "\\' OR 1=1 --", "\\", "\\\\'",
    "%' OR '%'='", "%(p0)s",
    "%s", "%%", ":p0", "{task}", "{0}", "$1", "?", "/* */ OR 1=1", "x') OR ('1'='1", "a\x00b", "\ud800",
    "\u202e", "\uffff",
    "$.a", '$"', "[0]", "{}", "', '$.x') OR (1=1", "NULL", "0x27", "CHAR(39)", "\u02bc OR 1=1", "*", "?*[",
    "\r\n",
]  # fmt: skip


@pytest.fixture(scope="module", params=stores.SQL, ids=lambda store: store.name)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with stores.opened(request.param, request) as store:
        for fact in FACTS:
            store.put(fact.record)
        yield store


def ask(store: Store, text: str) -> list[str]:
    page = Tasks(store, codec_of({}), parse(text, CLOCK), CLOCK, size=ROWS, budget=20).page()
    return [record.task_id for record in page.records]


def strings(name: str, count: int) -> Iterator[str]:
    chance = new_random(name)
    for number in range(count):
        if number % 4 == 0:
            yield "".join(chr(chance.choice([chance.randrange(128), chance.randrange(0x3000)])) for _ in range(30))
        yield "".join(chance.choice(PIECES) for _ in range(chance.randrange(1, 8)))


def test_any_string_is_understood_or_refused() -> None:
    understood = 0
    for text in strings("filters", STRINGS):
        try:
            tree = parse(text, CLOCK)
        except FilterWrong as exc:
            wrong = exc
        else:
            wrong = None
        if wrong is not None:
            assert 0 <= wrong.position <= len(text), text
            assert wrong.remedy, text
            continue
        understood += 1
        assert parse(str(tree), CLOCK) == tree, text
    # otherwise the strings would test nothing but errors
    assert understood > STRINGS / 20


def test_any_string_is_answered_or_refused_by_each_server(store: Store) -> None:
    answered = 0
    for text in strings("questions", ASKED * 4):
        if answered == ASKED // 2:
            break
        try:
            ask(store, text)
        except FilterWrong:
            continue
        answered += 1
    assert answered > ASKED / 10


def test_text_that_looks_like_sql_is_only_text(store: Store) -> None:
    whole = set(ask(store, ""))
    assert len(whole) == ROWS
    for first in range(0, len(HOSTILE), 4):
        words = [quoted(text) for text in HOSTILE[first : first + 4]]
        terms = [
            f"{name}:{word}" for word in words for name in (*TEXTS, "args", f"kwargs.{word}", f"result.*.{word}.0")
        ]
        found = " OR ".join(terms)
        for asked in (found, f"-({found})", " OR ".join(words)):
            condition = parse(asked, CLOCK).condition
            expected = {fact.record.task_id for fact in FACTS if holds(condition, fact, CLOCK)}
            assert set(ask(store, asked)) == expected, asked
    assert set(ask(store, "")) == whole
