"""All parts of the upkeep as one service: `rootcellar maintain --apply`, and its loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rootcellar.maintenance.service import Service, check_seconds
from rootcellar.maintenance.upkeep.part import Level, Part, Report, is_good, run_parts
from rootcellar.stores import Store
from rootcellar.stores.jobs import recorded

#: the name under which the runs are on record
JOB = "maintain"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpkeepConfig:
    """How often the upkeep runs.

    Attributes:
        interval: seconds between two runs.

    Raises:
        ConfigurationError: it is not a number of seconds.
    """

    interval: float = 3_600.0

    def __post_init__(self) -> None:
        check_seconds(self.interval, "interval", least=0.01)


class Upkeep(Service):
    """Lets each part act, one after the other. Only one process does so, because a second one would do the same.

    Args:
        store: where the runs are on record.
        parts: the parts.
        config: how often it runs.
        on_report: called with the report of each part.
    """

    name = "upkeep"
    action = "look after the tables"
    is_single = True

    def __init__(
        self,
        store: Store,
        parts: Sequence[Part],
        config: UpkeepConfig | None = None,
        on_report: Callable[[Report], object] = lambda report: None,
    ) -> None:
        super().__init__()
        self._store = store
        self._parts = parts
        self._config = config or UpkeepConfig()
        self._on_report = on_report
        #: what the parts reported in the last run
        self.reports: list[Report] = []

    def run_once(self) -> int:
        self.reports = []
        with recorded(self._store, JOB) as run:
            for report in run_parts(self._parts, apply=True, may_continue=self.continue_run):
                self.reports.append(report)
                self._on_report(report)
                run.done += report.done
            bad = [report.part for report in self.reports if not is_good([report])]
            run.note = f"see {', '.join(bad)}" if bad else None
            run.ok = all(report.level is not Level.FAILED for report in self.reports)
        return run.done

    def pause_after(self, done: int) -> float:
        return self._config.interval
