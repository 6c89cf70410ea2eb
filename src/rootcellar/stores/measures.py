"""How full a store is: abilities that the metrics use. Each figure costs the server little, however large a table is.

A figure that a server does not know is ``None``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSize:
    """The size of a table or a collection, as the server's catalog has it.

    Attributes:
        table: its name.
        rows: about how many rows it has.
        bytes: the bytes on disk, without the indexes unless ``index_bytes`` is ``None``.
        index_bytes: the bytes of its indexes.
        dead_rows: rows that were deleted or replaced, and whose place is not free yet.
    """

    table: str
    rows: int | None = None
    bytes: int | None = None
    index_bytes: int | None = None
    dead_rows: int | None = None


@runtime_checkable
class Sized(Protocol):
    """A store that knows the sizes of its tables."""

    def table_sizes(self) -> Sequence[TableSize]:
        """Return the size of each table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """What a store waits for.

    Attributes:
        unfinished: how many tasks have not ended, by state.
        oldest: when the oldest result was stored.
        chords_open: how many chords wait for their parts or for their body.
        chords_orphaned: how many of them are complete, and no process sends their body now.
    """

    unfinished: Mapping[str, int]
    oldest: datetime | None
    chords_open: int | None
    chords_orphaned: int | None


@runtime_checkable
class Active(Protocol):
    """A store that finds unfinished tasks and chords by an index."""

    def activity(self) -> Activity:
        """Return what the store waits for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """The memory of a server that keeps results in memory; of a Cluster, the sums of all masters.

    Attributes:
        result_keys: about how many keys hold the result of a task.
        used_bytes: the memory that the server uses.
        limit_bytes: the most that it may use; 0 for no limit.
        evicted_keys: how many keys the server has evicted since its start, of any kind.
    """

    result_keys: int | None
    used_bytes: int | None
    limit_bytes: int | None
    evicted_keys: int | None


@runtime_checkable
class InMemory(Protocol):
    """A store whose server keeps results in memory."""

    def memory_use(self, budget: float) -> MemoryUse:
        """Return the use of memory.

        Args:
            budget: seconds for counting keys; if they are not enough, the rest is estimated.
        """
