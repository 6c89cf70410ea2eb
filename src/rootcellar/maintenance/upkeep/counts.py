"""The counts beside the results: are they up to date?"""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

from rootcellar.maintenance.service import check_seconds
from rootcellar.maintenance.upkeep.part import Level, Part, Report
from rootcellar.maintenance.upkeep.words import number_of, show_seconds
from rootcellar.stores.counting import Counted, Question

#: seconds of one pass
PASS_SECONDS = 1.0
#: counts that are further behind than this need attention
LATE = timedelta(minutes=5)


class CountsPart(Part):
    """Counts the results that are not counted yet.

    Args:
        counted: the store.
        budget: the most seconds that it counts in one run; what is left is counted by the next one.

    Raises:
        ConfigurationError: ``budget`` is not a number of seconds.
    """

    name = "counts"
    action = "count results"

    def __init__(self, counted: Counted, budget: float = 60.0) -> None:
        super().__init__()
        check_seconds(budget, "budget")
        self._counted = counted
        self._budget = budget

    def report(self) -> Report:
        answer = self._counted.counts(Question(since=datetime.now(timezone.utc) - timedelta(hours=1)))
        is_late = answer.behind_by > LATE
        text = "up to date" if answer.is_exact else "older results are still being counted"
        if answer.behind_by:
            text = f"{show_seconds(answer.behind_by.total_seconds())} behind"
        return Report(
            level=Level.ATTENTION if is_late else Level.OK,
            text=text,
            advice=("a worker counts every few seconds; so does `rootcellar maintain --apply`",) if is_late else (),
            facts={"behind_seconds": answer.behind_by.total_seconds(), "exact": answer.is_exact},
        )

    def apply(self) -> Report:
        deadline = time.monotonic() + self._budget
        hours = 0
        while True:
            rolled = self._counted.roll(budget=PASS_SECONDS)
            hours += rolled.hours
            if rolled.is_done or not rolled.is_leader or time.monotonic() >= deadline or not self.continue_run():
                break
        text = f"counted {number_of(hours, 'hour')} anew"
        if not rolled.is_leader:
            text += "; another process is counting"
        elif not rolled.is_done:
            text += "; the next run counts more"
        return Report(text=text, done=hours, facts={"hours": hours, "is_done": rolled.is_done})
