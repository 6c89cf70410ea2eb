"""The ability to return all that a store holds, piece by piece, and to take saved groups of another store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from rootcellar.records import GroupRecord, TaskRecord


@runtime_checkable
class Streamed(Protocol):
    """A store whose records can be read from the first to the last, while others are stored and deleted.

    A cursor is a text. It may be kept, and used by another process.
    """

    def stream(self, cursor: str | None = None, limit: int = 1_000) -> tuple[Sequence[TaskRecord], str | None]:
        """Return about ``limit`` records, and the cursor for the next call; ``None`` at the end.

        A walk returns at least once each record that exists during the whole walk. It may return a record twice, and
        a call in the middle may return none. ``expires_at`` is when the store deletes the record, also if only the
        server knows that.

        Args:
            cursor: what the previous call returned; ``None`` from the beginning.
            limit: about how many.
        """

    def stream_groups(self, cursor: str | None = None, limit: int = 1_000) -> tuple[Sequence[GroupRecord], str | None]:
        """Do the same for saved groups."""

    def copy_groups(self, groups: Sequence[GroupRecord], *, newer_wins: bool = False) -> int:
        """Store groups where there is none; return how many were written.

        Args:
            groups: the groups, each with another id.
            newer_wins: whether a group also replaces one with an earlier ``done_at``.
        """

    def count_roughly(self) -> int:
        """Return about how many task records there are, quickly. It is for the display of progress."""

    def open_chords(self) -> int:
        """Return how many chords were begun and are not finished."""


@runtime_checkable
class ReadsWhole(Protocol):
    """What reads records with the expiry that only the server knows, such as that of a result that Celery itself wrote.

    A store whose records always say when they expire is this itself.
    """

    def get_many(self, task_ids: Iterable[str]) -> Mapping[str, TaskRecord]:
        """Return the records that exist of these tasks, by id."""
