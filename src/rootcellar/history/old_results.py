"""What a history asks an archive, which is in a layer above it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from rootcellar.history.filters import Clock, Filter
from rootcellar.history.lists import Tasks
from rootcellar.payloads import Codec
from rootcellar.records import TaskRecord


class OldResults(Protocol):
    """The archived results of a store.

    Attributes:
        where: the place of the files, without secrets.
    """

    where: str

    def find(self, task_id: str) -> tuple[TaskRecord, str] | None:
        """Return an archived record and the name of its file; ``None`` if the task is not archived."""

    def forget(self, task_ids: Collection[str]) -> int:
        """Make the archived copies of these tasks void; return how many there were."""

    def tasks(
        self, codec: Codec, query: Filter, clock: Clock, *, size: int, after: str | None, budget: float | None
    ) -> Tasks:
        """Return the archived tasks that a filter finds."""
