"""Holds in SQL stores: the ability :class:`~rootcellar.stores.holding.Holding`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar

from rootcellar.records import TaskRecord
from rootcellar.stores import framing
from rootcellar.stores.holding import Hold, Removed
from rootcellar.stores.search import Condition, MoreHolds, Search, Segment, Some
from rootcellar.stores.sql.rows import storable
from rootcellar.stores.sql.search import Renderer
from rootcellar.stores.sql.statements import fill_in

C = TypeVar("C")
T = TypeVar("T")


class HoldingMixin(Generic[C]):
    """The methods of a SQL store that keeps holds. The store has the methods that are abstract here."""

    MANY: int
    _sql: dict[str, str]

    # -- of the store

    @abstractmethod
    def _in_transaction(self, work: Callable[[C], T]) -> T: ...

    @abstractmethod
    def _all(self, statement: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]: ...

    @abstractmethod
    def _rows_of(self, connection: C, statement: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]: ...

    @abstractmethod
    def _count_of(self, connection: C, statement: str, params: Mapping[str, Any]) -> int: ...

    @abstractmethod
    def _rows_of_text(self, connection: C, text: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Run the text of a statement, and return its rows."""

    @abstractmethod
    def _delete_on(self, connection: C, ids: Sequence[str]) -> int:
        """Delete rows of all tables of tasks, and keep what was counted of them; return how many there were."""

    @abstractmethod
    def _renderer(self, search: Search) -> Renderer: ...

    @abstractmethod
    def _ids(self, ids: Sequence[str]) -> Any: ...

    @abstractmethod
    def _findable(self, ids: Iterable[str]) -> list[str]: ...

    @abstractmethod
    def _date(self, moment: datetime) -> Any: ...

    @abstractmethod
    def _read_date(self, value: Any) -> datetime: ...

    @abstractmethod
    def _task_record(self, row: Sequence[Any]) -> TaskRecord: ...

    # -- see Holding

    def place_hold(self, filter_text: str, reason: str, by: str, at: datetime) -> Hold:
        """See :class:`~rootcellar.stores.holding.Holding`."""
        params = {
            "filter": storable(filter_text),
            "reason": storable(reason),
            "placed_by": storable(by),
            "placed_at": self._date(at),
        }

        return self._in_transaction(lambda connection: self._hold(self._placed(connection, params)[0]))

    def _placed(self, connection: C, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Store a hold, and return its row."""
        self._count_of(connection, "place_hold", params)
        return self._rows_of(connection, "last_hold", {})

    def release_hold(self, number: int, by: str, at: datetime) -> Hold | None:
        """See :class:`~rootcellar.stores.holding.Holding`."""
        params = {"id": number, "released_by": storable(by), "released_at": self._date(at)}

        def release(connection: C) -> Hold | None:
            if not self._count_of(connection, "release_hold", params):
                return None
            return self._hold(self._rows_of(connection, "one_hold", {"id": number})[0])

        return self._in_transaction(release)

    def holds(self, with_released: bool = False) -> Sequence[Hold]:
        """See :class:`~rootcellar.stores.holding.Holding`."""
        found = [self._hold(row) for row in self._all("holds", {})]
        return found if with_released else [hold for hold in found if hold.is_active]

    def delete_spared(self, task_ids: Iterable[str], spared: Condition) -> Removed:
        """See :class:`~rootcellar.stores.holding.Holding`."""
        text, params = self.rendered(spared)
        statement = fill_in(self._sql["lock_spared"], {"spared": text})
        known = _known_holds(spared)
        count, kept = 0, set[str]()
        for some in framing.chunks(sorted(self._findable(task_ids)), self.MANY):

            def delete(connection: C, some: Sequence[str] = some) -> Removed:
                # also for rows that are in another table
                if known is not None and self._rows_of(connection, "holds_placed", {})[0][0] > known:
                    return Removed(0, frozenset(some))
                # locked, so that no other record of the task is stored between the look and the deletion
                found = self._rows_of_text(connection, statement, {**params, "task_ids": self._ids(some)})
                stay = frozenset(task_id for task_id, is_spared in found if is_spared)
                stay |= self._spared_older(connection, some, text, params)
                return Removed(self._delete_on(connection, [one for one in some if one not in stay]), stay)

            removed = self._in_transaction(delete)
            count += removed.count
            kept |= removed.kept
        return Removed(count, frozenset(kept))

    def _spared_older(
        self, connection: C, ids: Sequence[str], spared: str, params: Mapping[str, Any]
    ) -> frozenset[str]:
        """Lock the rows of these tasks in the older table; return which of them meet a condition."""
        return frozenset()

    def rendered(self, condition: Condition) -> tuple[str, dict[str, Any]]:
        """Return the SQL of a condition on a row in any segment, and its parameters ``p0``, ``p1``, …"""
        renderer = self._renderer(Search(segment=Segment.UNFINISHED, condition=condition))
        renderer.is_anywhere = True
        return renderer.render(condition), renderer.params

    def _hold(self, row: Sequence[Any]) -> Hold:
        number, text, reason, placed_by, placed_at, released_by, released_at = row
        return Hold(
            id=int(number),
            filter=text,
            reason=reason,
            placed_by=placed_by,
            placed_at=self._read_date(placed_at),
            released_by=released_by,
            released_at=None if released_at is None else self._read_date(released_at),
        )


def _known_holds(condition: Condition) -> int | None:
    """Return the number of holds with which a condition is true for every record, if more than that were placed."""
    terms = condition.terms if isinstance(condition, Some) else (condition,)
    return min((term.known for term in terms if isinstance(term, MoreHolds)), default=None)
