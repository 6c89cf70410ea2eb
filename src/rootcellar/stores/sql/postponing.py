"""Changes when stored rows expire: the ability :class:`~rootcellar.stores.expiring.Postponable` of SQL stores."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Generic, TypeVar

from rootcellar.records import TaskRecord
from rootcellar.stores.expiring import NewExpiry
from rootcellar.stores.fields import clamped
from rootcellar.stores.sql.rows import storable

C = TypeVar("C")
T = TypeVar("T")


class PostponingMixin(Generic[C]):
    """The methods of a SQL store that can change expiries. The store has the methods that are abstract here."""

    MANY: int

    @abstractmethod
    def _in_transaction(self, work: Callable[[C], T]) -> T: ...

    @abstractmethod
    def _count_of(self, connection: C, statement: str, params: Mapping[str, Any]) -> int: ...

    @abstractmethod
    def _date(self, moment: datetime) -> Any: ...

    def set_expiries(self, changes: Sequence[NewExpiry]) -> int:
        """See :class:`~rootcellar.stores.expiring.Postponable`. Each :attr:`MANY` changes are one transaction."""
        # in one order, so that two processes do not wait for each other
        ordered = sorted(changes, key=lambda change: change.record.task_id)
        count = 0
        for start in range(0, len(ordered), self.MANY):
            some = ordered[start : start + self.MANY]
            count += self._in_transaction(partial(self._set_expiries_on, changes=some))
        return count

    def _set_expiries_on(self, connection: C, changes: Sequence[NewExpiry]) -> int:
        """Set other expiries, one row after the other; return how many rows were changed."""
        return sum(self._count_of(connection, "set_expiry", self._expiry_params(change)) for change in changes)

    def _expiry_params(self, change: NewExpiry) -> dict[str, Any]:
        """Return the parameters of one change: what was read, and the new expiry."""
        record: TaskRecord = change.record
        return {
            "task_id": record.task_id,
            "old_status": storable(record.state),
            "old_date_done": self._date_or_null(record.done_at),
            "old_expires_at": self._date_or_null(record.expires_at),
            "expires_at": self._date_or_null(change.expires_at),
        }

    def _date_or_null(self, moment: datetime | None) -> Any:
        return None if moment is None else self._date(clamped(moment))
