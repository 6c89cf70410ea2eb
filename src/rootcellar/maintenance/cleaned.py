"""What a cleanup has done, or would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rootcellar.records import TaskRecord


@dataclass(slots=True, kw_only=True)
class Cleaned:
    """What a cleanup has done so far.

    Attributes:
        tasks: deleted results.
        groups: deleted groups.
        adopted: deleted results and groups of the tables that Celery created.
        chords: deleted chords.
        orphans: chords whose bodies were sent, because their processes had died.
        blobs: deleted blobs without a record; ``None`` if they were not searched.
        held: expired results that stay because of a hold.
        archiving: expired results that stay until they are archived, by the rules of this process.
        archiving_elsewhere: the same, only by rules on record, which are those of another process.
        has_archive: whether an archive is configured.
        keeps_adopted: whether the tables that Celery created are left alone, because there are holds.
        batches: how many batches were done.
        seconds: how long it took.
        is_complete: whether all is done. A run that was stopped is not; the next one goes on.
    """

    tasks: int = 0
    groups: int = 0
    adopted: int = 0
    chords: int = 0
    orphans: int = 0
    blobs: int | None = None
    held: int = 0
    archiving: int = 0
    archiving_elsewhere: int = 0
    has_archive: bool = True
    keeps_adopted: bool = False
    batches: int = 0
    seconds: float = 0.0
    is_complete: bool = False

    @property
    def deleted(self) -> int:
        """How many results and groups were deleted."""
        return self.tasks + self.groups + self.adopted

    @property
    def has_done_something(self) -> bool:
        """Whether anything was deleted or sent."""
        return bool(self.deleted or self.chords or self.orphans or self.blobs)

    def sentence(self) -> str:
        """Return in words what was done and what stays."""
        parts = [_number(self.tasks + self.adopted, "expired result")]
        parts += [_number(count, name) for count, name in ((self.groups, "group"), (self.chords, "chord")) if count]
        if self.blobs:
            parts.append(_number(self.blobs, "blob"))
        return " ".join([f"Deleted {_listed(parts)}.", *self.notes()])

    def notes(self) -> list[str]:
        """Return what stays and why, each in a sentence."""
        found = []
        if self.orphans:
            found.append(f"Sent the {'body' if self.orphans == 1 else 'bodies'} of {_number(self.orphans, 'chord')}.")
        if self.held:
            found.append(f"{_number(self.held, 'expired result')} {_stay(self.held)}, because of holds.")
        if self.archiving:
            found.append(f"{_number(self.archiving, 'expired result')} {_stay(self.archiving)} until archived.")
        if self.archiving and not self.has_archive:
            found.append("No archive is configured: set result_archive, or change the rules that say archive.")
        if self.archiving_elsewhere:
            count = self.archiving_elsewhere
            found.append(
                f"{_number(count, 'expired result')} {_stay(count)} until archived by the rules of another application "
                "or worker: see `rootcellar retention recorded`."
            )
        if self.keeps_adopted:
            found.append("The tables that Celery created are left alone while there are holds.")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a cleanup would do.

    Attributes:
        cleaned: the counts.
        samples: some of the results that would be deleted, without their values, the first to expire first.
    """

    cleaned: Cleaned
    samples: Sequence[TaskRecord]


def _number(count: int, name: str) -> str:
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def _stay(count: int) -> str:
    return "stays" if count == 1 else "stay"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
