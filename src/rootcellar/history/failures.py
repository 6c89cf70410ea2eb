"""Groups of failures: which there are, how often each one happens, whether it is new, and what its failures share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta

from rootcellar.errors import PermissionDenied, StoreReadOnly
from rootcellar.history.failure_groups import (
    BACK,
    GONE,
    MUTED,
    NEW,
    RESOLVED,
    RISING,
    STEADY,
    FailureGroup,
    Failures,
    Recent,
    Seen,
    Title,
)
from rootcellar.history.failure_titles import Titles
from rootcellar.history.filters import Clock, Filter, Matcher, parse
from rootcellar.history.filters.tree import And
from rootcellar.history.grouping.identity import group_of_text, text_of_group
from rootcellar.history.lists import Tasks
from rootcellar.history.selections import Selection, selection_of
from rootcellar.payloads import Codec
from rootcellar.records import NO_DATE, TaskRecord
from rootcellar.stores import Store
from rootcellar.stores.counting import Counted, KnownFailure, Question, Unit
from rootcellar.stores.search import (
    Always,
    Equal,
    Every,
    Found,
    Has,
    Negated,
    OneOf,
    Search,
    Searchable,
    SearchTooSlow,
    Segment,
)

#: the order of a list; groups of one place are in the order of their counts
_ORDER = {NEW: 0, BACK: 1, RISING: 2, STEADY: 3, GONE: 3, MUTED: 4, RESOLVED: 4}
#: a group is new for this time, if the filter names none; and the length of its trend
RECENT = timedelta(hours=24)
#: after so long without a failure, a group is gone, and a failure after it is back
SILENCE = timedelta(days=7)
#: a group rises with so many failures in the last hour, and so many times its mean hour
_LEAST_RISING, _TIMES_RISING = 5, 3
_HOUR = timedelta(hours=1)
#: the most rows that are read for one answer where nothing is counted, and without a group of their own
_MAX_ROWS, _MAX_UNGROUPED = 10_000, 500
#: seconds for rows, and for those without a group
_BUDGET, _UNGROUPED_BUDGET = 2.0, 0.3
#: seconds for bringing the counts up to date
_CATCH_UP_SECONDS = 1.0


Groups = dict[int, Seen]


def failures(store: Store, codec: Codec, titles: Titles, query: Filter, clock: Clock, limit: int) -> Failures:
    """Return the groups of the failures that a filter finds.

    A filter that names only tasks and times is answered by the counts beside the rows; any other by the rows.

    Args:
        store: the store.
        codec: opens values.
        titles: names the groups.
        query: the filter.
        clock: the present and the zone of the reader.
        limit: the most groups.

    Raises:
        AbilityMissing: the store has neither counts nor an index, and too many records.
    """
    counted = store.ability(Counted)
    if counted is None:
        return _of_rows(store, codec, titles, query, clock, limit)
    catch_up(counted)
    selection = selection_of(query, clock)
    searched_back_to, is_exact = None, True
    incomplete: list[str] = []
    if selection is not None and all(name in ("task", "state") for name, _ in selection.tests):
        is_exact = counted.counts(Question(since=selection.since, until=selection.until, states=("FAILURE",))).is_exact
        found = _of_counts(store, counted, titles, selection, incomplete) if selection.matches(state="FAILURE") else {}
    else:
        found, searched_back_to = _found_rows(store, codec, titles, query, clock)
    since = _begin(query, selection, clock)
    known = {each.group: each for each in counted.known_failures(list(found))} if found else {}
    recent = _recent(counted, found, since, clock.now)
    groups = [
        _group(number, seen, known.get(number), recent[number], since, clock.now) for number, seen in found.items()
    ]
    ranked = sorted(groups, key=_rank)
    shown = titles.named([_with_example(store, group) for group in ranked[:limit]], known, found)
    return Failures(shown, max(0, len(ranked) - limit), searched_back_to, is_exact and not incomplete)


def catch_up(counted: Counted) -> None:
    """Bring the counts up to date, as far as there is time. A user who may only read gets what is counted."""
    with suppress(PermissionDenied, StoreReadOnly):
        counted.roll(budget=_CATCH_UP_SECONDS)


def _begin(query: Filter, selection: Selection | None, clock: Clock) -> datetime:
    """Return since when a group is new: from the begin of the filter, or for a day."""
    since = None if selection is None else selection.since
    return clock.now - RECENT if since is None or since < clock.now - 52 * SILENCE else since


def _rank(group: FailureGroup) -> tuple[int, int, float]:
    return _ORDER[group.status], -group.count, -group.last_seen.timestamp()


def _of_counts(store: Store, counted: Counted, titles: Titles, selection: Selection, incomplete: list[str]) -> Groups:
    """Count by the cells of whole hours, and by rows before the first of them; and rows that have no group.

    Adds to ``incomplete`` what could not be read wholly.
    """
    found: Groups = {}
    for each in counted.failure_totals(selection.since, selection.until):
        if selection.matches(task=each.name):
            found.setdefault(each.group, Seen()).add(each.name, each.count, each.first, each.last)
    searchable = store.ability(Searchable)
    if searchable is None:
        return found
    if selection.since is not None and Unit.HOUR.ceiling(selection.since) != selection.since:
        border = min(filter(None, (Unit.HOUR.ceiling(selection.since), selection.until)))
        for record in _searched(searchable, selection.since, border, incomplete, has_group=True):
            if record.failure_group is not None and selection.matches(task=record.name):
                found.setdefault(record.failure_group, Seen()).add_record(record)
    ungrouped = [*_searched(searchable, selection.since, selection.until, incomplete, has_group=False)]
    if searchable.has_adopted():
        ungrouped += _adopted(searchable, selection.since, selection.until, incomplete)
    for record in ungrouped:
        if selection.matches(task=record.name):
            _add_ungrouped(found, record, titles)
    return found


def _adopted(
    store: Searchable, since: datetime | None, until: datetime | None, incomplete: list[str]
) -> Iterator[TaskRecord]:
    """Yield failures of the table that Celery created, among its last rows."""
    search = Search(segment=Segment.ADOPTED, condition=Always(True), limit=_MAX_UNGROUPED, timeout=_UNGROUPED_BUDGET)
    try:
        for each in store.search(search):
            record, done = each.record, each.record.done_at or NO_DATE
            is_within = (since is None or done >= since) and (until is None or done < until)
            if record.state == "FAILURE" and is_within and not each.is_hidden:
                yield record
    except SearchTooSlow:
        incomplete.append("rows of the table that Celery created")


def _searched(
    store: Searchable, since: datetime | None, until: datetime | None, incomplete: list[str], *, has_group: bool
) -> Sequence[TaskRecord]:
    """Return failures that ended in a stretch of time, the newest first; none if it takes too long."""
    grouped = Has("failure_group")
    search = Search(
        segment=Segment.FINISHED,
        condition=Every((OneOf("status", ("FAILURE",)), grouped if has_group else Negated(grouped))),
        since=since,
        until=until,
        limit=_MAX_ROWS if has_group else _MAX_UNGROUPED,
        timeout=_BUDGET if has_group else _UNGROUPED_BUDGET,
        with_values=not has_group,
    )
    rows: list[Found] = []
    for segment in (Segment.FINISHED, Segment.OLDER) if store.has_older() else (Segment.FINISHED,):
        try:
            rows += store.search(replace(search, segment=segment, limit=search.limit - len(rows)))
        except SearchTooSlow:
            incomplete.append("rows")
            break
        if len(rows) >= search.limit:
            incomplete.append("rows")
            break
    return [each.record for each in rows if not each.is_hidden]


def _add_ungrouped(found: Groups, record: TaskRecord, titles: Titles) -> None:
    """Count a failure that was stored without its group."""
    grouped = titles.grouped(record)
    if grouped is not None:
        seen = found.setdefault(grouped.group, Seen())
        seen.add_record(record)
        seen.title = seen.title or Title(grouped.type, grouped.place, grouped.template)


def _found_rows(
    store: Store, codec: Codec, titles: Titles, query: Filter, clock: Clock
) -> tuple[Groups, datetime | None]:
    """Count the rows that a filter finds; return also how far back they were read if the time was over."""
    found: Groups = {}
    tasks = Tasks(store, codec, _failed(query, clock), clock, size=_MAX_ROWS, budget=_BUDGET, with_values=False)
    page = tasks.page()
    without = [record.task_id for record in page.records if record.failure_group is None][:_MAX_UNGROUPED]
    for record in page.records:
        if record.failure_group is not None:
            found.setdefault(record.failure_group, Seen()).add_record(record)
    for record in store.get_many(without).values() if without else ():
        _add_ungrouped(found, record, titles)
    ended = page.records[-1].done_at if page.cursor is not None and page.records else None
    return found, page.searched_back_to or ended


def _failed(query: Filter, clock: Clock) -> Filter:
    """Return a filter for the failures among the tasks that a filter finds."""
    failed = parse("state:failed", clock)
    if query.condition is None or failed.condition is None:
        return failed
    terms = query.condition.terms if isinstance(query.condition, And) else (query.condition,)
    return Filter(And((*terms, failed.condition)))


def _recent(counted: Counted, found: Groups, since: datetime, now: datetime) -> dict[int, Recent]:
    """Return how often groups failed in the last days, whatever the filter is."""
    if not found:
        return {}
    recent = {number: _recent_of(seen.hours if seen.title else {}, since, now) for number, seen in found.items()}
    groups, border = list(found), Unit.HOUR.floor(since)
    for each in counted.failure_hours(_first_hour(now), None, groups):
        recent[each.group].hours[each.start] += each.count
    for total in counted.failure_totals(Unit.HOUR.ceiling(now - SILENCE), None, groups):
        recent[total.group].week += total.count
    for total in counted.failure_totals(border, None, groups):
        one = recent[total.group]
        one.since = total.first if one.since is None else min(one.since, total.first)
    for total in counted.failure_totals(border - SILENCE, border, groups):
        one = recent[total.group]
        one.before = total.last if one.before is None else max(one.before, total.last)
    return recent


def _recent_of(hours: Mapping[datetime, int], since: datetime, now: datetime) -> Recent:
    """Return how often a group failed in the last days, by failures that were counted one by one."""
    border = Unit.HOUR.floor(since)
    return Recent(
        Counter({hour: count for hour, count in hours.items() if hour >= _first_hour(now)}),
        sum(count for hour, count in hours.items() if hour >= now - SILENCE),
        min((hour for hour in hours if hour >= border), default=None),
        max((hour for hour in hours if border - SILENCE <= hour < border), default=None),
    )


def _first_hour(now: datetime) -> datetime:
    """Return the begin of the first of the last 24 hours."""
    return Unit.HOUR.floor(now) - 23 * _HOUR


def _of_rows(store: Store, codec: Codec, titles: Titles, query: Filter, clock: Clock, limit: int) -> Failures:
    """Answer from the rows, for a store without counts: read all failures, and count those that the filter finds."""
    page = Tasks(store, codec, parse("state:failed", clock), clock, size=_MAX_ROWS).page()
    matches = Matcher(query.condition, clock)
    everything: Groups = {}
    found: Groups = {}
    for record in page.records:
        grouped = None if record.failure_group is not None else titles.grouped(record)
        number = record.failure_group if grouped is None else grouped.group
        if number is None:
            continue
        for kept in (everything, found) if matches(record) else (everything,):
            seen = kept.setdefault(number, Seen())
            seen.add_record(record)
            if grouped is not None:
                seen.title = Title(grouped.type, grouped.place, grouped.template)
    since = _begin(query, selection_of(query, clock), clock)
    known = {number: _as_known(number, seen) for number, seen in everything.items()}
    groups = [
        _group(number, seen, known[number], _recent_of(everything[number].hours, since, clock.now), since, clock.now)
        for number, seen in found.items()
    ]
    ranked = sorted(groups, key=_rank)
    ended = page.records[-1].done_at if page.cursor is not None and page.records else None
    shown = titles.named(ranked[:limit], known, found)
    return Failures(shown, max(0, len(ranked) - limit), page.searched_back_to or ended)


def _as_known(number: int, seen: Seen) -> KnownFailure:
    assert seen.first is not None
    assert seen.last is not None
    assert seen.example is not None
    return KnownFailure(group=number, first_seen=seen.first, last_seen=seen.last, example=seen.example)


def _group(
    number: int,
    seen: Seen,
    known: KnownFailure | None,
    recent: Recent,
    since: datetime,
    now: datetime,
) -> FailureGroup:
    first, last = seen.bounds
    if known is not None:
        # a cell has only the hour
        first = min(known.first_seen, seen.first or known.first_seen)
        last = max(known.last_seen, last)
    example = seen.example if known is None or (seen.last or NO_DATE) > known.last_seen else known.example
    if example is None:
        example = known.example if known is not None else ""
    return FailureGroup(
        group=text_of_group(number),
        type=None,
        place=None,
        template=None,
        count=seen.tasks.total(),
        tasks=dict(seen.tasks.most_common()),
        first_seen=first,
        last_seen=last,
        status=status_of(first, last, recent, known, since, now),
        example=example,
        trend=_trend(recent.hours, now),
        muted_until=None if known is None else known.muted_until,
        note=None if known is None else known.note,
    )


def _with_example(store: Store, group: FailureGroup) -> FailureGroup:
    """Return a group that has an example, if it is stored: the counts may not have one yet."""
    searchable = store.ability(Searchable)
    if group.example or searchable is None:
        return group
    condition = Equal("failure_group", (group_of_text(group.group),))
    search = Search(segment=Segment.FINISHED, condition=condition, limit=1, timeout=_BUDGET, with_values=False)
    found = next(iter(searchable.search(search)), None)
    if found is None and searchable.has_older():
        with suppress(SearchTooSlow):
            # the older table has no index of groups
            found = next(iter(searchable.search(replace(search, segment=Segment.OLDER))), None)
    return group if found is None else replace(group, example=found.record.task_id)


def _trend(hours: Mapping[datetime, int], now: datetime) -> tuple[int, ...]:
    last = Unit.HOUR.floor(now)
    return tuple(hours.get(last - _HOUR * ago, 0) for ago in reversed(range(24)))


def status_of(
    first: datetime,
    last: datetime,
    recent: Recent,
    known: KnownFailure | None,
    since: datetime,
    now: datetime,
) -> str:
    """Return the status of a group.

    Args:
        first, last: when its first and its last failure ended.
        recent: how often it failed in the last days.
        known: its mark.
        since: since when it is new.
        now: the present.
    """
    mark = None if known is None else known.mark
    marked_at = now if known is None or known.marked_at is None else known.marked_at
    if mark == RESOLVED:
        return BACK if last > marked_at else RESOLVED
    if mark == MUTED and (known is None or known.muted_until is None or known.muted_until > now):
        return MUTED
    if last < now - SILENCE:
        return GONE
    if first >= since:
        return NEW
    if recent.since is not None and (recent.before is None or recent.since - recent.before >= SILENCE):
        return BACK
    last_hour = Unit.HOUR.floor(now)
    # the hour that has just begun, and the one before it as far as an hour reaches
    part = (now - last_hour) / _HOUR
    in_an_hour = recent.hours[last_hour] + recent.hours[last_hour - _HOUR] * (1 - part)
    if in_an_hour >= _LEAST_RISING and in_an_hour > _TIMES_RISING * recent.week / (SILENCE / _HOUR):
        return RISING
    return STEADY
