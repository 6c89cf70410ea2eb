"""Everything about one group of failures, and the marks that people set."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from rootcellar.errors import AbilityMissing, RootcellarError
from rootcellar.history.failure_groups import MUTED, RESOLVED, Facet, FailureGroup, Variant
from rootcellar.history.failure_titles import Titles
from rootcellar.history.failures import catch_up, failures
from rootcellar.history.filters import Clock, parse
from rootcellar.history.filters.rows import Row
from rootcellar.history.filters.tree import quoted
from rootcellar.history.grouping.identity import group_of_text, text_of_group
from rootcellar.history.lists import Tasks, opened
from rootcellar.payloads import Codec
from rootcellar.records import TaskRecord
from rootcellar.stores import Store
from rootcellar.stores.counting import Counted
from rootcellar.stores.search import Equal, Search, Searchable, Segment, Sort

#: the statuses that a person can set; "open" removes a mark
OPEN = "open"
MARKS = (RESOLVED, MUTED, OPEN)
#: how many failures, and other tasks, are compared
_SAMPLE = 500
_BUDGET = 2.0
_MAX_VARIANTS, _MAX_NEWEST, _MAX_FACETS, _MAX_NAMES = 20, 5, 5, 5
#: a value is named if at least this part of the failures has it, and so many times the part of other tasks
_LEAST_SHARE, _LEAST_LIFT = 0.5, 1.5
_LONGEST_VALUE = 60
#: more groups than any store has
_MAX_GROUPS = 1_000_000


class FailureUnknown(RootcellarError):
    """No failure of this group is stored. Not retryable."""


def number_of(text: str) -> int:
    """Return the number of a group.

    Raises:
        FailureUnknown: it is not the text form of a group.
    """
    try:
        return group_of_text(text)
    except ValueError as exc:
        raise FailureUnknown(str(exc), remedy="`rootcellar failures` shows the groups") from None


def failure(store: Store, codec: Codec, titles: Titles, group: str, clock: Clock) -> FailureGroup:
    """Return everything about one group.

    Args:
        store: the store.
        codec: opens values.
        titles: names the groups.
        group: its text form, in upper or lower case.
        clock: the present and the zone of the reader.

    Raises:
        FailureUnknown: it is not the text form of a group, or no failure of it is stored.
    """
    number = number_of(group)
    text = text_of_group(number)
    query = parse(f"failure:{text} state:failed", clock)
    sample = [
        opened(codec, record)
        for record in Tasks(store, codec, query, clock, size=_SAMPLE, budget=_BUDGET).page().records
    ]
    found = next(iter(_overview(store, codec, titles, text, sample, clock)), None)
    if found is None:
        raise FailureUnknown(
            f"no failure of the group {text} is stored",
            where=store.where,
            remedy="its results may have expired; `rootcellar failures` shows the groups, and "
            f"`rootcellar failures '\"{text}\"'` those in which this word is",
        )
    variants = Counter(_template(titles, record) for record in sample)
    common = variants.most_common(_MAX_VARIANTS)
    return replace(
        found,
        variants=tuple(Variant(template, count) for template, count in common),
        other_variants=sum(variants.values()) - sum(count for _, count in common),
        newest=tuple(record.task_id for record in sample[:_MAX_NEWEST]),
        oldest=_oldest(store, number, found.first_seen, sample),
        facets=tuple(_facets(sample, _others(store, codec, text, found, clock))),
    )


def _overview(
    store: Store, codec: Codec, titles: Titles, text: str, sample: Sequence[TaskRecord], clock: Clock
) -> Iterator[FailureGroup]:
    """Yield the group as in the list, with all of its failures."""
    counted = store.ability(Counted)
    if counted is not None:
        catch_up(counted)
        known = counted.known_failures([group_of_text(text)])
        if not known and not sample:
            return
    query = parse("state:failed" if counted is not None else f"failure:{text}", clock)
    everything = failures(store, codec, titles, query, clock, _MAX_GROUPS)
    yield from (group for group in everything if group.group == text)


def _template(titles: Titles, record: TaskRecord) -> str:
    grouped = titles.grouped(record)
    return "(cannot be read here)" if grouped is None else grouped.template


def _oldest(store: Store, number: int, first: datetime, sample: Sequence[TaskRecord]) -> str | None:
    """Return the id of the oldest failure that is stored."""
    searchable = store.ability(Searchable)
    if len(sample) < _SAMPLE or searchable is None:
        return sample[-1].task_id if sample else None
    search = Search(
        segment=Segment.FINISHED,
        condition=Equal("failure_group", (number,)),
        since=first - timedelta(hours=1),
        sort=Sort(by="done", is_descending=False),
        limit=1,
        timeout=_BUDGET,
        with_values=False,
    )
    return next((each.record.task_id for each in searchable.search(search)), sample[-1].task_id)


def _others(store: Store, codec: Codec, text: str, found: FailureGroup, clock: Clock) -> list[TaskRecord]:
    """Return other tasks of the same names that ended at about the same time."""
    names = [quoted(name) for name in list(found.tasks)[:_MAX_NAMES] if name]
    if not names:
        return []
    query = parse(f"task:{','.join(names)} state:done -failure:{text}", clock)
    page = Tasks(store, codec, query, clock, size=_SAMPLE, budget=_BUDGET).page()
    return [opened(codec, record) for record in page.records]


def _facets(failed: Sequence[TaskRecord], others: Sequence[TaskRecord]) -> list[Facet]:
    """Return the values that failures have more often than others, the largest difference first."""
    if not failed or not others:
        return []
    here, there = (Counter(value for record in records for value in _values(record)) for records in (failed, others))
    facets = []
    for (name, value), count in here.items():
        share, other = count / len(failed), there[name, value] / len(others)
        if share >= _LEAST_SHARE and share >= _LEAST_LIFT * other:
            facets.append(Facet(name, value, share, other))
    return sorted(facets, key=lambda facet: (facet.others - facet.share, facet.name))[:_MAX_FACETS]


def _values(record: TaskRecord) -> Iterator[tuple[str, str]]:
    """Yield what a task has in common with others: short values, each once."""
    if record.queue:
        yield "queue", record.queue
    if record.worker:
        yield "worker", record.worker
    kwargs: Any = Row(record).kwargs
    for name, value in kwargs.items() if isinstance(kwargs, dict) else ():
        shown = value if isinstance(value, str) else json.dumps(value, default=str)
        if isinstance(name, str) and len(shown) <= _LONGEST_VALUE and isinstance(value, (str, int, float, type(None))):
            yield f"kwargs.{name}", shown


def mark(store: Store, group: str, status: str, *, at: datetime, until: datetime | None, note: str | None) -> None:
    """Mark a group as resolved or muted, or remove its mark.

    Args:
        store: the store.
        group: its text form.
        status: ``resolved``, ``muted`` or ``open``.
        at: the present.
        until: the end of ``muted``; ``None`` for no end.
        note: a text for other people.

    Raises:
        ValueError: ``status`` is another text, or ``until`` is given for another mark than ``muted``.
        FailureUnknown: no failure of the group is stored.
        AbilityMissing: the store does not keep marks.
    """
    if status not in MARKS:
        raise ValueError(f"status is {status!r}: give one of {', '.join(MARKS)}")
    if until is not None and status != MUTED:
        raise ValueError(f"until is given for {status!r}: only a group that is muted has an end")
    number = number_of(group)
    counted = store.ability(Counted)
    if counted is None:
        raise AbilityMissing(
            "this store keeps no marks of failures",
            where=store.where,
            remedy="keep results in PostgreSQL, MySQL or SQLite",
        )
    catch_up(counted)
    if not counted.mark_failure(number, None if status == OPEN else status, at=at, until=until, note=note):
        raise FailureUnknown(
            f"no failure of the group {text_of_group(number)} is known",
            where=store.where,
            remedy="`rootcellar failures` shows the groups",
        )
