"""Tests a condition on a whole row group at once, so that only rows that may be wanted become records.

What a mask leaves out is never wanted. Where a condition is about something that a mask does not know, such as a value
in JSON, it leaves out nothing: the :class:`~rootcellar.history.filters.Matcher` decides about every row that is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rootcellar.archive.files import FileReader
from rootcellar.stores.search import Always, Condition, Dated, Equal, Every, Has, Like, Negated, OneOf, Some, Timed

#: the column of a condition -> the column of a file, where the names differ
_NAMES = {"status": "state", "date_done": "done_at", "date_started": "started_at", "date_sent": "sent_at"}
_TEXTS = frozenset({"task_id", "state", "name", "queue", "worker", "group_id", "parent_id", "root_id"})
_COMPARED = _TEXTS | {"retries", "group_index", "failure_group", "done_at", "started_at", "sent_at", "expires_at"}


@dataclass(frozen=True, slots=True)
class _Mask:
    """Which rows may meet a condition.

    Attributes:
        rows: an array of booleans.
        is_exact: whether it has exactly those that meet it.
    """

    rows: Any
    is_exact: bool = True


class Masks:
    """Tests a condition on row groups.

    Args:
        condition: the condition.
    """

    def __init__(self, condition: Condition) -> None:
        self._condition = condition

    def choose(self, table: Any) -> Any:
        """Return a mask of the rows of a row group that may meet the condition."""
        compute = _compute()
        found = _mask(self._condition, table)
        everything = compute.is_valid(table.column("task_id"))
        if found is None:
            return everything
        # a text with a lone surrogate is in the column ``exact``, and in its own column only as readable text
        return compute.or_(found.rows, compute.is_valid(table.column("exact")))

    def may_be_in(self, reader: FileReader, group: int) -> bool:
        """Return whether a row group may have such rows, by the least and greatest values that the footer has."""
        if reader.extremes(group, "exact") is not None:
            return True
        return _may_be_in(self._condition, reader, group)


def _may_be_in(condition: Condition, reader: FileReader, group: int) -> bool:
    match condition:
        case Always(holds):
            return holds
        case Every(terms):
            return all(_may_be_in(term, reader, group) for term in terms)
        case Some(terms):
            return any(_may_be_in(term, reader, group) for term in terms)
        case OneOf(column, texts) if _name(column) in _TEXTS:
            found = reader.extremes(group, _name(column))
            return found is None or any(found[0] <= text <= found[1] for text in texts)
        case Dated("date_done", since, until) | Timed(since, until):
            first, last = reader.done_between(group)
            return _overlap(first, last, since, until)
        case _:
            return True


def _overlap(first: datetime | None, last: datetime | None, since: datetime | None, until: datetime | None) -> bool:
    if first is None or last is None:
        return True
    return (since is None or last >= since) and (until is None or first < until)


def _mask(condition: Condition, table: Any) -> _Mask | None:
    """Return which rows of a table may meet a condition; ``None`` if any may."""
    compute = _compute()
    match condition:
        case Always(holds):
            return _Mask(compute.equal(compute.is_valid(table.column("task_id")), holds))
        case Every(terms):
            masks = [_mask(term, table) for term in terms]
            known = [mask for mask in masks if mask is not None]
            if not known:
                return None
            rows = known[0].rows
            for mask in known[1:]:
                rows = compute.and_(rows, mask.rows)
            return _Mask(rows, len(known) == len(masks) and all(mask.is_exact for mask in known))
        case Some(terms):
            masks = [_mask(term, table) for term in terms]
            known = [mask for mask in masks if mask is not None]
            if len(known) < len(masks):
                return None
            rows = known[0].rows
            for mask in known[1:]:
                rows = compute.or_(rows, mask.rows)
            return _Mask(rows, all(mask.is_exact for mask in known))
        case Negated(term):
            inner = _mask(term, table)
            return _Mask(compute.invert(inner.rows)) if inner is not None and inner.is_exact else None
        case _:
            rows = _leaf(condition, table)
            # a column without a value does not match
            return None if rows is None else _Mask(compute.fill_null(rows, fill_value=False))


def _leaf(condition: Condition, table: Any) -> Any:
    compute, arrow = _compute(), _arrow()
    match condition:
        case Has(column) if _name(column) in _COMPARED:
            return compute.is_valid(table.column(_name(column)))
        case OneOf(column, texts) if _name(column) in _TEXTS:
            findable = [text for text in texts if _is_encodable(text)]
            return compute.is_in(table.column(_name(column)), value_set=arrow.array(findable, arrow.string()))
        case Like(column, (start, end)) if _name(column) in _TEXTS and (start + end).isascii():
            values = table.column(_name(column))
            rows = compute.and_(compute.starts_with(values, pattern=start), compute.ends_with(values, pattern=end))
            return compute.and_(rows, compute.greater_equal(compute.utf8_length(values), len(start) + len(end)))
        case Equal("failure_group", numbers):
            return compute.is_in(table.column("failure_group"), value_set=arrow.array(numbers, arrow.int64()))
        case Dated(column, since, until) if _name(column) in _COMPARED:
            return _between(table.column(_name(column)), since, until)
        case Timed(since, until):
            # every archived task has ended
            return _between(table.column("done_at"), since, until)
        case _:
            return None


def _between(values: Any, since: datetime | None, until: datetime | None) -> Any:
    compute, arrow = _compute(), _arrow()
    rows = compute.is_valid(values)
    if since is not None:
        rows = compute.and_(rows, compute.greater_equal(values, arrow.scalar(since, values.type)))
    if until is not None:
        rows = compute.and_(rows, compute.less(values, arrow.scalar(until, values.type)))
    return rows


def _is_encodable(text: str) -> bool:
    """Return whether a text has no lone surrogate. A row with one is in the column ``exact``."""
    return text.isascii() or text == text.encode("utf-8", "replace").decode()


def _name(column: str) -> str:
    return _NAMES.get(column, column)


def _arrow() -> Any:
    import pyarrow

    return pyarrow


def _compute() -> Any:
    import pyarrow.compute

    return pyarrow.compute
