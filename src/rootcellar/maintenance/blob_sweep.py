"""Deletes the blobs that have no record any more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rootcellar.maintenance.service import Service, check_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobSweepConfig:
    """How often blobs are swept.

    Attributes:
        interval: seconds between two sweeps, if the service is started. A sweep reads the names of all blobs.

    Raises:
        ConfigurationError: the interval is not a number of seconds.
    """

    interval: float = 86_400.0

    def __post_init__(self) -> None:
        check_seconds(self.interval, "interval")


class BlobSweep(Service):
    """Sweeps the blob store. One process does so, because a second one would read the same names.

    Args:
        sweep: deletes the blobs without a record, and returns how many.
        config: how often it sweeps.
    """

    name = "blob sweep"
    action = "sweep the blob store"
    is_single = True

    def __init__(self, sweep: Callable[[], int], config: BlobSweepConfig | None = None) -> None:
        super().__init__()
        self._sweep = sweep
        self._config = config or BlobSweepConfig()

    def run_once(self) -> int:
        return self._sweep()

    def pause_after(self, done: int) -> float:
        return self._config.interval
