"""Keeps the counts beside the results up to date."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rootcellar.maintenance.service import Service, check_seconds
from rootcellar.stores.counting import Counted, KnownFailure

#: the pause while nothing is stored, as a multiple of the interval
IDLE_PAUSES = 6
#: the pause while older results are still counted for the first time, as a part of the time of a pass
_BACKLOG_PAUSE = 0.5
#: the most groups of failures that get a title after one pass
_MAX_NAMED = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RollUpConfig:
    """How often results are counted.

    Attributes:
        statistics_interval: seconds between two passes. While nothing is stored, there are fewer.
        budget: the most seconds of a pass.

    Raises:
        ConfigurationError: one of them is not a number of seconds.
    """

    statistics_interval: float = 5.0
    budget: float = 1.0

    def __post_init__(self) -> None:
        check_seconds(self.statistics_interval, "statistics_interval", least=0.01)
        check_seconds(self.budget, "budget")


class RollUp(Service):
    """Counts results. One process does so, because a second one would count the same.

    Args:
        counted: the store.
        config: how often it counts.
        name_failures: computes and stores the titles of groups of failures that have none, because the results from
            which they are computed may expire. It is called with the groups that are new since the last call.
    """

    name = "roll up"
    action = "count results for statistics (they are counted later)"
    is_single = True

    def __init__(
        self,
        counted: Counted,
        config: RollUpConfig | None = None,
        name_failures: Callable[[Sequence[KnownFailure]], None] | None = None,
    ) -> None:
        super().__init__()
        self._name_failures = name_failures
        #: groups whose titles were asked for once: some cannot be read here
        self._asked: set[int] = set()
        self._counted = counted
        self._config = config or RollUpConfig()
        self._has_more = False

    def run_once(self) -> int:
        rolled = self._counted.roll(budget=self._config.budget)
        self._has_more = rolled.is_leader and not rolled.is_done
        if rolled.hours and self._name_failures is not None:
            self._name_new(self._name_failures)
        return rolled.hours

    def _name_new(self, name_failures: Callable[[Sequence[KnownFailure]], None]) -> None:
        unnamed = [each for each in self._counted.known_failures() if each.type is None]
        new = [each for each in unnamed if each.group not in self._asked][:_MAX_NAMED]
        if new:
            name_failures(new)
        self._asked = {each.group for each in unnamed} & (self._asked | {each.group for each in new})

    def pause_after(self, done: int) -> float:
        interval = self._config.statistics_interval
        if self._has_more:
            return min(interval, self._config.budget * _BACKLOG_PAUSE)
        return interval if done else interval * IDLE_PAUSES

    @property
    def first_pause(self) -> float:
        return self._config.statistics_interval
