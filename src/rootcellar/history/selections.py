"""Which filters the counts beside the rows can answer: those that name only task, queue, state and time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from rootcellar.errors import PermissionDenied, StoreReadOnly
from rootcellar.history.filters import Clock, Filter
from rootcellar.history.filters.predicate import bounds, states_of
from rootcellar.history.filters.tree import And, Field, Moment, Node, Not, Pattern, Presence, Value
from rootcellar.records import NO_DATE
from rootcellar.stores.counting import Answer, Cell, Counted, Kind, Question, Tally, Unit, merged

Test = Callable[[str], bool]
#: the fields that cells have, and the kinds of their names
_NAMES = {"task": Kind.TASK, "queue": Kind.QUEUE}
#: seconds for passes that a reader does because the counts are late
CATCH_UP_SECONDS = 1.0
#: a filter that matches more names than this is asked without them: a statement may only have some thousand parameters
MOST_NAMES = 1_000
#: a task that ended at an unknown time has a date before this
_FIRST_DAY = NO_DATE + timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A filter that the counts can answer.

    Attributes:
        since, until: when the tasks ended, or, of unfinished ones, were started or sent; ``None`` for no border.
        tests: ``task``, ``queue`` or ``state`` -> what a value must meet; an empty text for no value.
        states: the only states, if the filter names them word by word.
        is_finished: whether only finished tasks are asked for.
    """

    since: datetime | None = None
    until: datetime | None = None
    tests: tuple[tuple[str, Test], ...] = ()
    states: tuple[str, ...] | None = None
    is_finished: bool = False

    def matches(self, **values: str | None) -> bool:
        """Return whether these values meet the filter."""
        return all(test(values[name] or "") for name, test in self.tests if name in values)

    def question(self, counted: Counted) -> Question:
        """Return the question for finished tasks. It asks for more if the filter matches too many names: see `fits`."""
        names = {name: self._known(counted, name, kind) for name, kind in _NAMES.items()}
        return Question(
            since=self.since,
            until=self.until,
            names=names["task"],
            queues=names["queue"],
            states=self.states,
            with_new_names=True,
        )

    def fits(self, question: Question) -> bool:
        """Return whether all that a question finds meets the filter."""
        asked = {"task": question.names, "queue": question.queues, "state": question.states}
        return all(asked[name] is not None for name, _ in self.tests)

    def _known(self, counted: Counted, field: str, kind: Kind) -> tuple[str, ...] | None:
        """Return the known names that meet the filter; ``None`` if it says nothing of them, or they are too many."""
        tests = [test for name, test in self.tests if name == field]
        if not tests:
            return None
        known = ("", *(each.name for each in counted.names(kind)))
        found = tuple(name for name in known if all(test(name) for test in tests))
        return found if len(found) <= MOST_NAMES else None


def selection_of(query: Filter, clock: Clock) -> Selection | None:
    """Return a filter as a selection; ``None`` if the counts cannot answer it.

    Raises:
        ValueError: a moment cannot be understood.
    """
    found = Selection()
    for term in _terms(query.condition):
        added = _with_term(found, term, clock)
        if added is None:
            return None
        found = added
    return found


def _terms(condition: Node | None) -> Sequence[Node]:
    if condition is None:
        return ()
    return condition.terms if isinstance(condition, And) else (condition,)


def _with_term(found: Selection, term: Node, clock: Clock) -> Selection | None:
    is_negated = isinstance(term, Not)
    field = term.term if isinstance(term, Not) else term
    if not isinstance(field, Field):
        return None
    if field.name in (*_NAMES, "state"):
        return _with_test(found, field, is_negated)
    if is_negated or len(field.values) != 1 or isinstance(field.values[0], Presence):
        return None
    since, until = _times(field.name, field.values[0], clock)
    if field.name == "done":
        since = max(since or _FIRST_DAY, _FIRST_DAY)
    elif field.name not in ("since", "until"):
        return None
    return replace(
        found,
        since=since if found.since is None else max(found.since, since or found.since),
        until=until if found.until is None else min(found.until, until or found.until),
        is_finished=found.is_finished or field.name == "done",
    )


def _times(name: str, value: Value, clock: Clock) -> tuple[datetime | None, datetime | None]:
    if name == "done":
        return bounds(value, clock)
    if not isinstance(value, Moment):
        return None, None
    start = clock.extent(value).start
    return (start, None) if name == "since" else (None, start)


def _with_test(found: Selection, field: Field, is_negated: bool) -> Selection:
    tests = [_state_test(value) if field.name == "state" else _name_test(value) for value in field.values]

    def test(text: str) -> bool:
        return any(one(text) for one in tests) != is_negated

    states = found.states
    if field.name == "state" and not is_negated and states is None:
        states = _named_states(field.values)
    return replace(found, tests=(*found.tests, (field.name, test)), states=states)


def _named_states(values: Sequence[Value]) -> tuple[str, ...] | None:
    """Return the states that these values name word by word."""
    named: list[str] = []
    for value in values:
        words = states_of(value) if isinstance(value, Pattern) else None
        if words is None or words[1]:
            return None
        named += words[0]
    return tuple(dict.fromkeys(named))


def _name_test(value: Value) -> Test:
    if isinstance(value, Presence):
        return lambda text: bool(text) == value.is_there
    assert isinstance(value, Pattern)
    expression = value.expression
    return lambda text: bool(text) and expression.fullmatch(text) is not None


def _state_test(value: Value) -> Test:
    if isinstance(value, Presence):
        return lambda text: value.is_there
    assert isinstance(value, Pattern)
    if (words := states_of(value)) is None:
        expression = value.expression
        return lambda text: expression.fullmatch(text) is not None
    wanted, is_negated = words
    return lambda text: (text in wanted) != is_negated


def counted_cells(
    counted: Counted,
    selection: Selection,
    *,
    by: Unit | None = None,
    by_name: bool = False,
    by_queue: bool = False,
    with_spreads: bool = False,
) -> Answer:
    """Return the cells of finished tasks, by name and queue if asked for, and always by state.

    If the counts are late, this brings them up to date first, as far as it may and as there is time.
    """
    question = replace(
        selection.question(counted),
        by=by,
        # a name that does not meet the filter is left out below
        by_name=by_name or any(name == "task" for name, _ in selection.tests),
        by_queue=by_queue or any(name == "queue" for name, _ in selection.tests),
        with_spreads=with_spreads,
    )
    answer = counted.counts(question)
    if not answer.is_exact:
        # a user who may only read gets what is counted
        with suppress(PermissionDenied, StoreReadOnly):
            counted.roll(budget=CATCH_UP_SECONDS)
        answer = counted.counts(question)
    return replace(answer, cells=merged(_selected(answer.cells, selection, by_name, by_queue)))


def _selected(cells: Sequence[Cell], selection: Selection, by_name: bool, by_queue: bool) -> Iterator[Cell]:
    for cell in cells:
        values: dict[str, Any] = {"state": cell.state}
        values.update({"task": cell.name} if cell.name is not None else {})
        values.update({"queue": cell.queue} if cell.queue is not None else {})
        if selection.matches(**values):
            yield replace(cell, name=cell.name if by_name else None, queue=cell.queue if by_queue else None)


def unfinished_cells(counted: Counted, selection: Selection, cap: int) -> Answer:
    """Return the cells of unfinished tasks, by state."""
    question = Question(
        since=selection.since, until=selection.until, states=selection.states, by_name=True, by_queue=True
    )
    answer = counted.unfinished(question, cap)
    return replace(answer, cells=merged(_selected(answer.cells, selection, by_name=False, by_queue=False)))


def total(cells: Sequence[Cell]) -> Tally:
    """Return the tally of all cells."""
    found = Tally()
    for cell in cells:
        found.add(cell.tally)
    return found
