"""Any filter as a hold: no statement that deletes takes a record that the filter finds, or that cannot be decided."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta, timezone
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings

from rootcellar.history.filters import Clock, Filter, Matcher
from rootcellar.history.filters.pinned import pinned
from rootcellar.history.holds import Holds
from rootcellar.history.lists import opened
from rootcellar.payloads import codec_of
from rootcellar.records import TaskRecord
from rootcellar.stores import Store
from rootcellar.stores.expiring import Due, Expiring
from rootcellar.stores.holding import Holding
from rootcellar.stores.postgres import PostgresStore
from rootcellar.stores.search import Condition
from rootcellar.testing.helpers import able
from tests.helpers import HEAVY
from tests.history import stores
from tests.history.filter_trees import NOW, facts, filters
from tests.seeds import SEED

ROWS = 90
CLOCK = Clock(NOW, timezone(timedelta(hours=5, minutes=30)))
LATER = NOW + timedelta(days=100)
CODEC = codec_of({})
often = settings(
    max_examples=400 if HEAVY else 20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@dataclass
class Place:
    """A store, and its records as they are read."""

    store: Any
    records: dict[str, TaskRecord]


@pytest.fixture(scope="module")
def places(request: pytest.FixtureRequest) -> Iterator[list[Place]]:
    every = [replace(fact.record, expires_at=fact.record.expires_at or NOW) for fact in facts(SEED, ROWS)]
    with ExitStack() as stack:
        found = []
        for each in stores.SQL:
            store = stack.enter_context(stores.opened(each, request))
            for record in every:
                store.put(record)
            found.append(Place(store, store.get_many([record.task_id for record in every])))
        yield found


def meeting(store: Any, condition: Condition) -> set[str]:
    """Return the ids of all rows that a statement would spare for a condition."""
    text, params = store.rendered(condition)
    table = store.schema.tables["task"]
    statement = f"SELECT task_id FROM {table} WHERE ({text}) IS TRUE"  # noqa: S608 - our own text
    return {row[0] for row in store._in_transaction(lambda c: store._rows_of_text(c, statement, params))}


def expired(store: Store, spared: Condition | None) -> set[str]:
    """Return the ids of all rows that a cleanup would delete."""
    due = Due(now=LATER, limit=10_000, spared=spared, with_values=False)
    return {record.task_id for record in able(store, Expiring).expired(due)}


@often
@given(query=filters)
def test_no_statement_deletes_what_any_filter_holds(places: list[Place], query: Filter) -> None:
    asked = Matcher(query.condition, CLOCK, partial(opened, CODEC))
    for place in places:
        name = f"{place.store.where}: {query}"
        answers = {task_id: asked.answer(record) for task_id, record in place.records.items()}
        held = {task_id for task_id, answer in answers.items() if answer is not False}
        event(f"{min(len(held), 5)} held")
        hold = able(place.store, Holding).place_hold(str(pinned(query, CLOCK)), "r", "ann", NOW)
        try:
            holds = Holds(place.store, CODEC)
            assert holds.problems() == {}, name
            assert holds.held(place.records.values()) == held, name
            spared, doubtful = holds.condition(), holds.doubtful()
            assert spared is not None
            kept = meeting(place.store, spared)
            assert kept >= held, name
            assert expired(place.store, spared).isdisjoint(held), name
            surely = kept - (meeting(place.store, doubtful) if doubtful is not None else set())
            assert surely <= held, name
            if holds.is_exact and isinstance(place.store, PostgresStore):
                assert kept == held, name
        finally:
            able(place.store, Holding).release_hold(hold.id, "ann", NOW)
