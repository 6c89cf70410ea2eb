"""Moves results from a fast store to the durable store behind it."""

from __future__ import annotations

from dataclasses import dataclass

from rootcellar.maintenance.batches import BatchSize
from rootcellar.maintenance.service import Retries, Service, check_seconds
from rootcellar.stores.journal import DRAIN_BATCH, WritesBehind


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainConfig:
    """How results are moved.

    Attributes:
        batch: the most tasks that are moved in one transaction.
        least_batch: the smallest size to which a batch shrinks after errors.
        pause: seconds after a batch that was not full.
        idle_pause: seconds between two checks while there is nothing to move.

    Raises:
        ConfigurationError: a pause is not a number of seconds, or ``least_batch`` is not from 1 to ``batch``.
    """

    batch: int = DRAIN_BATCH
    least_batch: int = 10
    pause: float = 0.1
    idle_pause: float = 0.5

    def __post_init__(self) -> None:
        check_seconds(self.pause, "pause")
        check_seconds(self.idle_pause, "idle_pause")
        self.batch_size()

    def batch_size(self) -> BatchSize:
        """Return the size of a batch, which shrinks and grows."""
        return BatchSize(self.batch, self.least_batch)


class Drain(Service):
    """Drains a store. Several processes may do so at a time: only one of them moves a batch at any moment.

    Args:
        store: the store to drain.
        config: the sizes of batches, and the pauses.
    """

    name = "drain"
    action = "move results (none of them is lost)"

    def __init__(self, store: WritesBehind, config: DrainConfig | None = None) -> None:
        super().__init__(retries=Retries(first=0.1, longest=5.0))
        self._store = store
        self._config = config or DrainConfig()
        self._size = self._config.batch_size()
        self._is_full = False

    def run_once(self) -> int:
        return self._size.run(self._move)

    def _move(self, limit: int) -> int:
        moved = self._store.drain(limit)
        self._is_full = moved >= limit
        return moved

    def pause_after(self, done: int) -> float:
        if not done:
            return self._config.idle_pause
        return 0.0 if self._is_full else self._config.pause
