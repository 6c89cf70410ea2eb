"""What a server keeps besides the records, and what holds back its cleaning: abilities for maintenance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Protocol, runtime_checkable

#: names of indexes that an interrupted REINDEX CONCURRENTLY leaves
LEFTOVER_MARKS = ("_ccnew", "_ccold")


@dataclass(frozen=True, slots=True, kw_only=True)
class VacuumState:
    """What vacuum has done, and has to do, in a table.

    Attributes:
        table: its name, quoted where that is needed.
        rows: about how many rows it has.
        dead_rows: about how many rows were deleted or replaced, and keep their space until vacuum has run.
        vacuumed_at: when vacuum ended last, by hand or by itself; ``None`` for never, or if the server forgot it.
        analyzed_at: the same for the statistics of the planner.
        is_automatic: whether the server vacuums the table by itself.
        is_server_automatic: whether the server vacuums tables by itself at all.
        begins_at: the number of dead rows at which it begins to do so.
        may_vacuum: whether this user may.
        owner: the role that owns the table.
    """

    table: str
    rows: int
    dead_rows: int
    vacuumed_at: datetime | None
    analyzed_at: datetime | None
    is_automatic: bool
    is_server_automatic: bool
    begins_at: int
    may_vacuum: bool
    owner: str


class HolderKind(str, Enum):
    """What can hold back vacuum."""

    TRANSACTION = "transaction"
    PREPARED = "prepared transaction"
    SLOT = "replication slot"
    STANDBY = "standby"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Something that keeps vacuum from removing dead rows, or makes the server keep its log.

    Attributes:
        kind: what it is.
        name: a process id, the id of a prepared transaction, or the name of a slot or a standby.
        user: its user; ``None`` if it has none.
        application: the application's name; of a slot its type.
        state: what it does, such as ``idle in transaction``.
        seconds: for how long; ``None`` if the server does not know.
        transactions: how many transactions have begun since.
        log_bytes: how much of its log the server keeps for it; ``None`` if it keeps none.
    """

    kind: HolderKind
    name: str
    user: str | None = None
    application: str | None = None
    state: str | None = None
    seconds: float | None = None
    transactions: int | None = None
    log_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Holders:
    """What holds back vacuum.

    Attributes:
        found: each of them, the oldest first.
        hidden: how many sessions of other users cannot be seen with this user's rights.
        user: this user.
    """

    found: Sequence[Holder]
    hidden: int
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VacuumDone:
    """What one vacuum did.

    Attributes:
        kept: dead rows that it could not remove, because a transaction may still read them; ``None`` if not known.
        is_skipped: whether it did nothing, because another vacuum or a change of the table runs.
    """

    kept: int | None
    is_skipped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class InvalidIndex:
    """An index that is kept up to date at each write and that no query uses.

    Attributes:
        index: its name, quoted where that is needed.
        table: that of its table.
        is_leftover: whether an interrupted rebuild left it, beside the index that queries use.
        is_busy: whether another session creates an index of this table now, or cleans it.
        may_repair: whether this user may.
        owner: the role that owns the table.
    """

    index: str
    table: str
    is_leftover: bool
    is_busy: bool
    may_repair: bool
    owner: str


@runtime_checkable
class Vacuums(Protocol):
    """A store whose server must remove dead rows: PostgreSQL."""

    def vacuum_states(self) -> Sequence[VacuumState]:
        """Return the state of each of our tables, and of their partitions."""

    def vacuum_holders(self, older_than: float) -> Holders:
        """Return what holds back vacuum.

        Args:
            older_than: seconds; younger transactions are left out.
        """

    def vacuum(self, table: str) -> VacuumDone:
        """Remove the dead rows of a table, and refresh its statistics. It waits for no lock, and no store waits for it.

        Args:
            table: its name, from :meth:`vacuum_states`.
        """

    def invalid_indexes(self) -> Sequence[InvalidIndex]:
        """Return the invalid indexes of our tables."""

    def repair_index(self, index: InvalidIndex, lock_timeout: float) -> None:
        """Drop what an interrupted rebuild left, or build an index again while workers store results.

        Args:
            index: the index.
            lock_timeout: the most seconds that it waits for transactions that are older.

        Raises:
            RootcellarError: it is not possible. Nothing is left of the try.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The space of a table or a file on disk.

    Attributes:
        name: the table, or words for a file.
        bytes: its size.
        unused_bytes: how much of it is empty. New rows use it; it does not go back to the disk.
    """

    name: str
    bytes: int
    unused_bytes: int


@runtime_checkable
class Compactable(Protocol):
    """A store whose files keep the space of deleted rows: MySQL, MariaDB and SQLite."""

    #: the statement that gives the space of a table back to the disk, for a person; ``{name}`` is the table
    compacting: str

    def spaces(self) -> Sequence[Space]:
        """Return the space of each table, or of the whole file."""

    def tidy(self) -> str | None:
        """Do what makes nobody wait, and return it in words; ``None`` if there is nothing of this kind."""


@runtime_checkable
class KnowsDisk(Protocol):
    """A store that knows how much room its disk has."""

    def free_bytes(self) -> int:
        """Return the free bytes of the disk."""
