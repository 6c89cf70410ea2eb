"""The readers of a filter agree: the SQL of each server, the Python predicate, and an account by brute force."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timezone
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings

from rootcellar.history.filters import Clock, Filter, Matcher, parse, sentence
from rootcellar.history.filters.conditions import limits, negated
from rootcellar.history.lists import Tasks, opened
from rootcellar.payloads import Codec, codec_of
from rootcellar.stores import Store
from rootcellar.stores.postgres import PostgresStore
from rootcellar.stores.search import Condition, Search, Searchable, Segment
from tests.helpers import HEAVY
from tests.history import stores
from tests.history.filter_trees import NOW, Fact, facts, filters
from tests.history.oracle import holds, place
from tests.seeds import SEED

CLOCK = Clock(NOW, timezone.utc)
EXAMPLES = 1_000 if HEAVY else 20
ROWS = 600 if HEAVY else 160
often = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@dataclass(repr=False)
class Places:
    """The same tasks in each store."""

    facts: dict[str, Fact]
    stores: dict[str, Store]
    codec: Codec

    def expected(self, query: Filter) -> dict[str, bool | None]:
        return {task_id: holds(query.condition, fact, CLOCK) for task_id, fact in self.facts.items()}


@pytest.fixture(scope="module")
def places(request: pytest.FixtureRequest) -> Iterator[Places]:
    every = facts(SEED, ROWS)
    with ExitStack() as stack:
        found = {each.name: stack.enter_context(stores.opened(each, request)) for each in stores.SQL}
        for store in found.values():
            for fact in every:
                store.put(fact.record)
        yield Places({fact.record.task_id: fact for fact in every}, found, codec_of({}))


@often
@given(query=filters)
def test_predicate_agrees_with_brute_force(places: Places, query: Filter) -> None:
    matches = Matcher(query.condition, CLOCK, partial(opened, places.codec))
    expected = places.expected(query)
    found = {task_id for task_id, fact in places.facts.items() if matches(fact.record)}
    assert found == {task_id for task_id, answer in expected.items() if answer}, str(query)
    assert matches.unread == sum(answer is None for answer in expected.values()), str(query)


@often
@given(query=filters)
def test_each_server_finds_what_brute_force_finds_in_the_order_of_the_list(places: Places, query: Filter) -> None:
    expected = {task_id for task_id, answer in places.expected(query).items() if answer}
    event(f"{min(len(expected), 5)} found")
    for name, store in places.stores.items():
        found = [record.task_id for record in Tasks(store, places.codec, query, CLOCK, size=90, budget=20)]
        assert set(found) == expected, f"{name}: {query}"
        assert len(found) == len(expected), f"{name}: {query}"
        in_order = [place(places.facts[task_id]) for task_id in found]
        assert in_order == sorted(in_order), f"{name}: {query}"


@often
@given(query=filters)
def test_condition_of_a_server_misses_nothing_and_its_opposite_neither(places: Places, query: Filter) -> None:
    answers = places.expected(query)
    wanted = {task_id for task_id, answer in answers.items() if answer}
    possible = {task_id for task_id, answer in answers.items() if answer is not False}
    found = limits(query.condition, CLOCK)
    for name, store in places.stores.items():
        at_most = everything(store, found.at_most)
        assert at_most >= wanted, f"{name}: {query}"
        # what does not meet the opposite is certainly wanted
        at_least = set(places.facts) - everything(store, negated(found.at_least))
        assert at_least <= wanted, f"{name}: {query}"
        if found.is_exact and isinstance(store, PostgresStore):
            assert at_most == wanted == possible, f"{name}: {query}"


def everything(store: Store, condition: Condition) -> set[str]:
    """Return the ids of all tasks that a server finds."""
    searchable: Any = store.ability(Searchable)
    return {
        each.record.task_id
        for segment in (Segment.TIMELESS, Segment.UNFINISHED, Segment.FINISHED)
        for each in searchable.search(Search(segment=segment, condition=condition, limit=10_000, with_values=False))
    }


@often
@given(query=filters)
def test_every_filter_has_a_text_and_a_sentence(query: Filter) -> None:
    assert parse(str(query), CLOCK) == query
    said = sentence(query, CLOCK)
    assert said.isprintable()
