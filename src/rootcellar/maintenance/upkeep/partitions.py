"""The older table of PostgreSQL: results wait to be moved, and partitions to be dropped."""

from __future__ import annotations

from datetime import datetime, timezone

from rootcellar.maintenance.mover import Mover, MoverRun
from rootcellar.maintenance.upkeep.part import Level, Part, Report
from rootcellar.maintenance.upkeep.words import number_of
from rootcellar.stores.older import Older

#: the most results that are counted of those that can be moved
MOST_BEHIND = 100_000
#: so many results that wait are not worth a notice: a worker moves them in its next run
FEW = 10_000
_GRANTS = "`rootcellar schema grants USER --for maintainer` prints the rights"


class PartitionsPart(Part):
    """Moves finished results to the older table, and drops partitions whose days have passed.

    Args:
        older: the older table.
        mover: does it.
    """

    name = "partitions"
    action = "look after the older table"

    def __init__(self, older: Older, mover: Mover) -> None:
        super().__init__()
        self._older = older
        self._mover = mover

    def report(self) -> Report:
        """Return how many results wait to be moved."""
        status = self._older.status()
        if not status.is_enabled:
            return Report(text="there is no older table")
        if status.is_disabling:
            return Report(
                level=Level.ATTENTION,
                text="results are being moved back from the older table",
                advice=("run `rootcellar partitions disable` to finish that",),
            )
        now = datetime.now(timezone.utc)
        waiting, _ = self._older.behind(now, status.window, MOST_BEHIND)
        passed = [each.name for each in self._older.partitions() if each.until is not None and each.until <= now.date()]
        more = "at least " if waiting >= MOST_BEHIND else ""
        text = f"{more}{number_of(waiting, 'result')} {'waits' if waiting == 1 else 'wait'} to be moved"
        if passed:
            text += f"; {', '.join(passed)} can be dropped"
        facts = {"waiting": waiting, "passed": passed}
        if (waiting or passed) and (missing := self._older.missing_rights()):
            text += f", and this user cannot do it: it lacks {'; '.join(missing)}"
            return Report(level=Level.REFUSED, text=text, advice=(_GRANTS,), facts=facts)
        is_due = bool(passed) or waiting >= FEW
        return Report(
            level=Level.ATTENTION if is_due else Level.OK,
            text=text,
            advice=("a user who may do it runs `rootcellar maintain --apply`",) if is_due else (),
            facts=facts,
        )

    def apply(self) -> Report:
        """Move, drop, and finish what a killed run has left."""
        status = self._older.status()
        if not status.is_enabled or status.is_disabling:
            return self.report()
        run = self._mover.run(status)
        facts = {"moved": run.moved, "dropped": list(run.dropped), "kept": run.kept, "in_use": list(run.waiting)}
        return Report(
            level=_level_of(run),
            text=f"this user lacks {'; '.join(run.missing)}" if run.missing else run.sentence(),
            advice=(_GRANTS,) if run.missing else (),
            done=run.done,
            facts=facts,
        )


def _level_of(run: MoverRun) -> Level:
    if run.missing:
        return Level.REFUSED
    return Level.ATTENTION if run.waiting else Level.OK
