"""What maintenance did last, and how large the tables were on each day: abilities of the SQL stores.

Both are kept beside the results, so that each process, and each command, sees what all others did.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol, runtime_checkable

from rootcellar.errors import PermissionDenied, RootcellarError
from rootcellar.stores.base import Store
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

#: the most characters of a note that are kept
LONGEST_NOTE = 1_000
#: for how many days the sizes of the tables are kept
DAYS_KEPT = 400
#: what was logged of missing rights
_refused: set[str] = set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The last run of a job of maintenance. All times are those of the store's server.

    Attributes:
        name: the job, such as ``"cleanup"``.
        started_at: when the last run began.
        ended_at: when the last run ended; ``None`` if it has not.
        succeeded_at: when a run succeeded last; ``None`` if none ever did.
        seconds: how long the run took that ended last.
        has_failed: whether the last run ended, and failed.
        done: how much the run did that ended last, such as deleted rows.
        note: what that run said in words, such as its error.
    """

    name: str
    started_at: datetime
    ended_at: datetime | None = None
    succeeded_at: datetime | None = None
    seconds: float | None = None
    has_failed: bool = False
    done: int = 0
    note: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether the last run has not ended: it runs now, or its process was killed."""
        return self.ended_at is None


@dataclass(frozen=True, slots=True, kw_only=True)
class DaySize:
    """The size of a table on a day.

    Attributes:
        day: the day, in UTC.
        name: the table.
        rows: about how many rows it had; ``None`` if the server does not know.
        bytes: its bytes on disk, with its indexes.
    """

    day: date
    name: str
    rows: int | None
    bytes: int


@runtime_checkable
class Jobs(Protocol):
    """A store that keeps the last run of each job, and the sizes of its tables."""

    def begin_job(self, name: str) -> None:
        """Note that a run of a job begins now."""

    def end_job(self, name: str, done: int, note: str | None = None, ok: bool = True) -> None:
        """Note that the run of a job that began last ends now.

        Args:
            name: the job.
            done: how much was done.
            note: what to say of it in words; an error if it failed. Only the first 1,000 characters are kept.
            ok: whether it succeeded.
        """

    def jobs(self) -> Mapping[str, Job]:
        """Return the last run of each job, by its name."""

    def note_sizes(self) -> None:
        """Note the size of each table today; it replaces what was noted earlier on this day. Forget old ones."""

    def sizes(self, since: date) -> Sequence[DaySize]:
        """Return the sizes that were noted on this day and later, the oldest day first."""


class Run:
    """What a run of a job has done so far. The code that does the work sets the attributes.

    Attributes:
        done: how much was done, such as deleted rows.
        note: what to say of it in words.
        ok: whether it succeeds, if no error is raised.
    """

    def __init__(self) -> None:
        self.done = 0
        self.note: str | None = None
        self.ok = True


@contextmanager
def recorded(store: Store, name: str) -> Iterator[Run]:
    """Keep a run of a job on record, also if it fails or is interrupted::

        with recorded(store, "cleanup") as run:
            run.done = clean_up()

    A store that keeps no jobs is left alone. A run goes on if it cannot be recorded, and that is logged.

    Args:
        store: where it is recorded.
        name: the job.
    """
    jobs = store.ability(Jobs)
    run = Run()
    if jobs is not None and not _begin(jobs, name):
        # without the right to write the begin, the end cannot be written either
        jobs = None
    try:
        yield run
    except BaseException as exc:
        if jobs is not None:
            is_interrupted = isinstance(exc, (KeyboardInterrupt, SystemExit))
            _end(jobs, name, run, "interrupted" if is_interrupted else str(exc) or type(exc).__name__, ok=False)
        raise
    if jobs is not None:
        _end(jobs, name, run, run.note, ok=run.ok)


def note_sizes(store: Store) -> None:
    """Note the sizes of the tables of today, if the store keeps them. A failure is only logged."""
    jobs = store.ability(Jobs)
    if jobs is None:
        return
    try:
        jobs.note_sizes()
    except RootcellarError as exc:
        _log("note the sizes of the tables", exc)


def _begin(jobs: Jobs, name: str) -> bool:
    """Record the begin of a run; return whether the user may do so."""
    try:
        jobs.begin_job(name)
    except RootcellarError as exc:
        _log(f"record that the job {name} begins", exc)
        return not isinstance(exc, PermissionDenied)
    return True


def _end(jobs: Jobs, name: str, run: Run, note: str | None, *, ok: bool) -> None:
    try:
        jobs.end_job(name, run.done, note, ok)
    except RootcellarError as exc:
        _log(f"record the end of the job {name}", exc)


def _log(action: str, exc: RootcellarError) -> None:
    """Log an error. A missing right is logged once by a process, because it stays until somebody grants it."""
    text = f"Could not {action}: {exc}"
    is_known = isinstance(exc, PermissionDenied) and text in _refused
    if isinstance(exc, PermissionDenied):
        _refused.add(text)
    logger.log(logging.DEBUG if is_known else logging.WARNING, "%s", text)
