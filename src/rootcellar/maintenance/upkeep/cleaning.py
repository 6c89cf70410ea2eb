"""Expired results that are still stored, and blobs without a record."""

from __future__ import annotations

from datetime import datetime, timezone

from rootcellar.maintenance.cleanup import Cleanup, CleanupWork
from rootcellar.maintenance.upkeep.part import Level, Part, Report
from rootcellar.maintenance.upkeep.words import number_of
from rootcellar.retention.on_record import archived_by_any
from rootcellar.stores.expiring import Due, Expiring

#: the most expired results that a report counts
MOST_COUNTED = 100_000
#: so many expired results are not worth a notice: a worker deletes them within the hour
FEW = 10_000


class CleaningPart(Part):
    """Deletes what has expired, and sweeps the blobs.

    Args:
        expiring: counts what has expired.
        work: what a cleanup works on.
    """

    name = "cleanup"
    action = "delete expired results"

    def __init__(self, expiring: Expiring, work: CleanupWork) -> None:
        super().__init__()
        self._expiring = expiring
        self._work = work

    def report(self) -> Report:
        now = datetime.now(timezone.utc)
        archiving = archived_by_any(self._work.store, self._work.archiving)
        due = Due(now=now, limit=MOST_COUNTED, spared=archiving)
        count = self._expiring.count_expired(due).count
        is_more = count >= MOST_COUNTED
        text = f"{'at least ' if is_more else ''}{number_of(count, 'expired result')} still stored"
        return Report(
            level=Level.ATTENTION if count >= FEW else Level.OK,
            text=text,
            advice=("a worker deletes them every hour; so does `rootcellar maintain --apply`",) if count >= FEW else (),
            facts={"expired": count, "exact": not is_more},
        )

    def apply(self) -> Report:
        cleanup = Cleanup(self._work)
        cleaned = cleanup.clean()
        return Report(
            level=Level.OK if cleaned.is_complete else Level.ATTENTION,
            text=cleaned.sentence(),
            done=cleaned.deleted,
            facts={
                "deleted": cleaned.deleted,
                "chords": cleaned.chords,
                "blobs": cleaned.blobs,
                "held": cleaned.held,
                "waiting_for_archive": cleaned.archiving,
                "waiting_for_archive_elsewhere": cleaned.archiving_elsewhere,
            },
        )
