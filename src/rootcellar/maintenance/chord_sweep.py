"""Finishes chords whose process died before it sent the body."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rootcellar.maintenance.service import Retries, Service, check_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class ChordSweepConfig:
    """How often chords are swept.

    Attributes:
        chord_sweep_interval: seconds between two sweeps.

    Raises:
        ConfigurationError: the interval is not a number of seconds.
    """

    chord_sweep_interval: float = 10.0

    def __post_init__(self) -> None:
        check_seconds(self.chord_sweep_interval, "chord_sweep_interval")


class ChordSweep(Service):
    """Sweeps chords. Several processes may do so at a time, because each claims the chords that it finishes.

    Args:
        sweep: finishes orphaned chords, and returns how many.
        config: how often it sweeps.
    """

    name = "chord sweep"
    action = "search for orphaned chords"

    def __init__(self, sweep: Callable[[], int], config: ChordSweepConfig | None = None) -> None:
        self._config = config or ChordSweepConfig()
        interval = self._config.chord_sweep_interval
        super().__init__(retries=Retries(first=interval, longest=interval))
        self._sweep = sweep

    def run_once(self) -> int:
        return self._sweep()

    def pause_after(self, done: int) -> float:
        return self._config.chord_sweep_interval

    @property
    def first_pause(self) -> float:
        return self._config.chord_sweep_interval
