"""The archive: results that wait for it, files whose results have all expired, and what killed runs left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

from rootcellar.archive.expiring import Expired, delete_remains, expire, expired_files
from rootcellar.archive.places import SETTING, Place
from rootcellar.archive.reading import Archive
from rootcellar.archive.remains import clear_up, orphans, own_entries
from rootcellar.history.holds import Holds
from rootcellar.maintenance.archive import Archive as ArchiveService
from rootcellar.maintenance.archive import ArchiveWork
from rootcellar.maintenance.upkeep.part import Level, Part, Report
from rootcellar.maintenance.upkeep.words import number_of, show_bytes
from rootcellar.payloads import Codec
from rootcellar.retention.policy import Retention
from rootcellar.stores import Store
from rootcellar.stores.archiving import Manifest
from rootcellar.stores.expiring import Due, Expiring
from rootcellar.stores.holding import Holding
from rootcellar.stores.jobs import recorded

#: the name of the job that deletes files
EXPIRY_JOB = "archive expiry"
#: the most results that a report counts, and how many are not worth a notice: a worker archives within the hour
MOST_COUNTED, FEW = 100_000, 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveOf:
    """An archive and its rules.

    Attributes:
        store: the store of the results.
        manifest: its manifest.
        codec: opens values that the filters of holds ask for, and reads blobs.
        retention: the rules.
        open_place: opens the place of the files; ``None`` if no archive is named.
    """

    store: Store
    manifest: Manifest
    codec: Codec
    retention: Retention
    open_place: Callable[[], Place] | None


class ArchivePart(Part):
    """Archives by the rules, deletes expired files, and removes what killed runs left at the place.

    Args:
        archive: what it works on.
    """

    name = "archive"
    action = "look after the archive"

    def __init__(self, archive: ArchiveOf) -> None:
        super().__init__()
        self._archive = archive

    def report(self) -> Report:
        now = datetime.now(timezone.utc)
        waiting = self._waiting(now)
        text = f"{number_of(waiting, 'expired result')} {'waits' if waiting == 1 else 'wait'} to be archived"
        if self._archive.open_place is None:
            return Report(
                level=Level.ATTENTION if waiting else Level.OK,
                text=f"{text}, and no archive is named",
                advice=(f"set {SETTING} (ROOTCELLAR_ARCHIVE), or change the rules that say archive",),
                facts={"waiting": waiting},
            )
        manifest, place = self._archive.manifest, self._archive.open_place()
        files = len(expired_files(manifest, now))
        lost = len(orphans(manifest, own_entries(manifest, place), now=now.timestamp()))
        text += f"; {number_of(files, 'file')} can be deleted" if files else ""
        text += f"; {number_of(lost, 'file')} left by a run that was killed" if lost else ""
        is_due = waiting >= FEW or files > 0 or lost > 0
        return Report(
            level=Level.ATTENTION if is_due else Level.OK,
            text=text,
            advice=("`rootcellar maintain --apply` does it",) if is_due else (),
            facts={"waiting": waiting, "expired_files": files, "orphans": lost},
        )

    def apply(self) -> Report:
        if self._archive.open_place is None:
            return self.report()
        place = self._archive.open_place()
        archived, text = self._run(place)
        now = datetime.now(timezone.utc)
        archive = Archive(self._archive.manifest, place)
        with recorded(self._archive.store, EXPIRY_JOB) as run:
            holds = Holds(self._archive.store, self._archive.codec)
            holding = self._archive.store.ability(Holding)
            expired = expire(archive, holds, holding, now, go_on=self.continue_run)
            run.done = expired.files
            removed = delete_remains(self._archive.manifest, place, now)
        return Report(
            level=Level.ATTENTION if expired.problem is not None else Level.OK,
            text=" ".join([text, *_sentences(expired, removed)]),
            advice=(str(expired.problem),) if expired.problem is not None else (),
            done=archived + expired.files + removed,
            facts={
                "archived": archived,
                "expired_files": expired.files,
                "held_files": expired.held,
                "unread_files": expired.unread,
                "removed_files": removed,
            },
        )

    def _waiting(self, now: datetime) -> int:
        """Return how many expired results a rule archives, counted up to a limit."""
        condition, expiring = self._archive.retention.archiving(), self._archive.store.ability(Expiring)
        if condition is None or expiring is None:
            return 0
        return expiring.count_expired(Due(now=now, limit=MOST_COUNTED, wanted=condition)).count

    def _run(self, place: Place) -> tuple[int, str]:
        """Archive by the rules; return how many results, and a sentence. Each run also removes orphans first."""
        archive = self._archive
        if archive.retention.archiving() is None:
            lost = clear_up(archive.manifest, place, now=datetime.now(timezone.utc).timestamp())
            return 0, f"No rule archives results. Removed {number_of(lost, 'file')} of killed runs."
        work = ArchiveWork(store=archive.store, codec=archive.codec, retention=archive.retention, place=lambda: place)
        done = ArchiveService(work).archive()
        return done.archived, done.sentence()


def _sentences(expired: Expired, removed: int) -> list[str]:
    found = []
    if expired.files:
        found.append(f"Deleted {number_of(expired.files, 'expired file')} ({show_bytes(expired.bytes)}).")
    if removed:
        found.append(f"Removed {number_of(removed, 'file')} that {'was' if removed == 1 else 'were'} replaced.")
    for count, why in (
        (expired.held, "because of holds"),
        (expired.unread, "because they cannot be read"),
        (expired.elsewhere, "because they are at another place"),
    ):
        if count:
            found.append(f"{number_of(count, 'expired file')} stay, {why}.")
    return found
