"""Moves live rows into files of the archive.

For each day: a file is written, read again, and committed. Only the commit changes anything, in one transaction: it
deletes the live rows that are exactly what was read from the file, and adds the file to the manifest::

    live rows ──> a new file ──> read again ──> committed: a result is in the archive, and no live row
                     |               |
                     └───────────────┴── the process died: the file has no entry in the manifest, and is deleted by a
                                         later run, after the grace time

A run can be interrupted at any moment and started again: what is committed is not found again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timezone
from itertools import chain, islice
from typing import Protocol, TypeVar

from rootcellar.archive.files import FileReader, FileWriter, Row, Written
from rootcellar.archive.places import Place as FilePlace
from rootcellar.archive.remains import check_draft, clear_up, discard_draft, write_copy
from rootcellar.archive.selecting import Selection
from rootcellar.errors import AbilityMissing, ArchiveFileMissing, RootcellarError
from rootcellar.payloads.blobs import REFERENCE, BlobSpiller
from rootcellar.records import Payload, TaskRecord
from rootcellar.stores.archiving import ArchiveFile, Copy, Manifest, NewFile, Place, in_batches
from rootcellar.stores.base import Store
from rootcellar.stores.fields import damaged_fields
from rootcellar.stores.holding import Hold, Holding
from rootcellar.stores.journal import WritesBehind

T = TypeVar("T")

#: how many copies are looked at together when a file is committed
_AT_ONCE = 1_000


class Held(Protocol):
    """Says which records are held; see :class:`rootcellar.history.holds.Holds`."""

    def held(self, records: Iterable[TaskRecord]) -> set[str]:
        """Return the ids of those of these records that must not be deleted."""


@dataclass(slots=True)
class Progress:
    """What a run has done.

    Attributes:
        archived: how many results are in new files, and no live rows any more.
        files: how many files were committed.
        bytes: the bytes of these files.
        changed: how many stay because they were stored again, deleted or locked while the file was written.
        held: how many stay because they are held.
        waiting: how many stay because their chord has not ended.
        dropped: how many were deleted from the table without a copy, because they did not succeed, and an archived
            result of the same task did.
        waiting_for_older: how many of these stay, because the archived result expires earlier than they do.
        damaged: how many stay because a stored field of them cannot be read.
        unread: how many stay because their blob, or an older archived copy of them, cannot be read.
        problem: the first of these errors.
    """

    archived: int = 0
    files: int = 0
    bytes: int = 0
    changed: int = 0
    held: int = 0
    waiting: int = 0
    dropped: int = 0
    waiting_for_older: int = 0
    damaged: int = 0
    unread: int = 0
    problem: RootcellarError | None = None

    @property
    def left(self) -> int:
        """How many results stay, although they are wanted."""
        return self.changed + self.held + self.waiting + self.waiting_for_older + self.damaged + self.unread

    def sentence(self) -> str:
        """Return in words what was done and what stays."""
        files = f"{self.files:,} file{'' if self.files == 1 else 's'}"
        parts = [f"Archived {self.archived:,} result{'' if self.archived == 1 else 's'} in {files}."]
        if self.dropped:
            parts.append(
                f"{self.dropped:,} that did not succeed were deleted: the archive has a SUCCESS of the same task."
            )
        for count, why in (
            (self.held, "because of holds"),
            (self.waiting, "because their chords have not ended"),
            (self.changed, "because they were stored again, deleted or locked meanwhile"),
            (self.waiting_for_older, "because the archived SUCCESS of the same task expires before they do"),
            (self.damaged, "because a stored field cannot be read"),
            (self.unread, "because their blob or older archived copy cannot be read"),
        ):
            if count:
                parts.append(f"{count:,} stay in the table, {why}.")
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A row that is copied: its record with the result itself, and what is known of it."""

    record: TaskRecord
    reference: Payload | None
    earlier: tuple[Place, ...] = ()
    is_kept: bool = True
    others: tuple[Place, ...] = ()

    @property
    def is_special(self) -> bool:
        """Whether the index has its hash already."""
        return bool(self.earlier or self.others)


@dataclass(slots=True)
class _Draft:
    """A file that is written and not committed.

    Attributes:
        name: its name at the place.
        written: what it has.
        begun: when it was begun.
        special: by row: the candidates that have older copies.
    """

    name: str
    written: Written
    begun: datetime
    special: dict[int, _Candidate] = field(default_factory=dict)


class Archiving:
    """One run.

    Args:
        store: the store of the results.
        place: where the files are.
        selection: which rows.
        holds: what must not be deleted.
        spiller: the blob store; ``None`` without one.
        expiry: returns when the archive may delete a result; ``None`` for never. It gets the record with its result.
        go_on: is asked between two files and two pages; a run ends when it returns ``False``.
        on_progress: is called with the number of results after each committed file.
        on_row: is called after each result that was written into a file, which may not be committed yet.

    Attributes:
        progress: what it has done.

    Raises:
        AbilityMissing: the store has no manifest.
    """

    def __init__(
        self,
        store: Store,
        place: FilePlace,
        selection: Selection,
        *,
        holds: Held,
        spiller: BlobSpiller | None = None,
        expiry: Callable[[TaskRecord], datetime | None] = lambda record: None,
        go_on: Callable[[], bool] = lambda: True,
        on_progress: Callable[[int], object] = lambda count: None,
        on_row: Callable[[], object] = lambda: None,
    ) -> None:
        self._store = store
        self._place = place
        self._selection = selection
        self._holds = holds
        self._spiller = spiller
        self._expiry = expiry
        self._go_on = go_on
        self._on_progress = on_progress
        self._on_row = on_row
        self._manifest = manifest_of(store)
        self._holding = store.ability(Holding)
        self._home = ""
        #: the holds that were active before the first row was read
        self._known_holds: Sequence[Hold] = ()
        self._open_chords: dict[str, bool] = {}
        self.progress = Progress()

    def run(self) -> Progress:
        """Archive every wanted row.

        Raises:
            StoreError: the store or the place cannot be used. What was committed is archived.
            ArchiveDamaged: a file that was just written cannot be read again. It was not committed.
        """
        if (moving := self._store.ability(WritesBehind)) is not None:
            # only what is in the durable store is archived, so as little as possible may be on its way
            moving.drain_all()
        clear_up(self._manifest, self._place, now=now().timestamp())
        self._home = self._manifest.homes()[0]
        self._known_holds = self._active_holds()
        for day in self._selection.days():
            if not self._go_on():
                break
            self._archive_day(day)
        return self.progress

    # -- a day

    def _archive_day(self, day: date) -> None:
        # a chord may end between two days
        self._open_chords.clear()
        candidates = self._candidates(day)
        while (first := next(candidates, None)) is not None:
            self._commit(day, self._write(day, chain([first], candidates)))

    def _candidates(self, day: date) -> Iterator[_Candidate]:
        for page in self._selection.records(day):
            if not self._go_on():
                return
            for some in _chunks(self._without_those_that_stay(page), 100):
                yield from self._prepared(some)

    def _without_those_that_stay(self, records: Sequence[TaskRecord]) -> list[TaskRecord]:
        held = self._holds.held(records)
        found = []
        for record in records:
            if record.task_id in held:
                self.progress.held += 1
            elif damaged_fields(record):
                # the copy would not be what is stored, and a later release may read it
                self.progress.damaged += 1
            elif record.group_id is not None and self._is_open(record.group_id):
                self.progress.waiting += 1
            else:
                found.append(record)
        return found

    def _is_open(self, group_id: str) -> bool:
        """Return whether a chord has not ended: it may still need the results of its header."""
        if group_id not in self._open_chords:
            self._open_chords[group_id] = self._store.get_chord(group_id) is not None
        return self._open_chords[group_id]

    def _prepared(self, records: Sequence[TaskRecord]) -> Iterator[_Candidate]:
        """Yield the rows to copy: with results from blobs, and with what is archived of them already."""
        places = self._manifest.places([record.task_id for record in records])
        for record in records:
            try:
                candidate = self._with_earlier(self._with_result(record), places.get(record.task_id, ()))
            except RootcellarError as exc:
                if exc.retryable:
                    raise
                self.progress.unread += 1
                self.progress.problem = self.progress.problem or exc
                continue
            if candidate is None:
                self.progress.waiting_for_older += 1
                continue
            yield candidate

    def _with_result(self, record: TaskRecord) -> _Candidate:
        reference = record.result
        if reference is None or reference.content_type != REFERENCE:
            return _Candidate(record, None)
        if self._spiller is None:
            raise AbilityMissing(
                f"the result of task {record.task_id} is in a blob, and no blob store is named",
                where="ROOTCELLAR_BLOB_URL",
                remedy="name the blob store that the workers use",
            )
        return _Candidate(replace(record, result=self._spiller.fetch(reference, record.task_id)), reference)

    def _with_earlier(self, candidate: _Candidate, places: Sequence[Place]) -> _Candidate | None:
        """Note the older copies of the same task. A SUCCESS wins over another state, else the newer record wins.

        ``None``: the live row stays, because it is kept for longer than the archived SUCCESS.
        """
        if not places:
            return candidate
        task_id = candidate.record.task_id
        older = [(place, file, record) for place in places for file, record in [self._at(place)]]
        own = [each for each in older if each[2].task_id == task_id]
        candidate = replace(
            candidate,
            earlier=tuple(place for place, _, _ in own),
            others=tuple(place for place, _, record in older if record.task_id != task_id),
        )
        winners = [file.expires_at for _, file, record in own if record.state == "SUCCESS"]
        if candidate.record.state == "SUCCESS" or not winners:
            return candidate
        expires_at = self._expiry(candidate.record)
        if any(each is None or (expires_at is not None and expires_at <= each) for each in winners):
            return replace(candidate, is_kept=False)
        return None

    def _at(self, place: Place) -> tuple[ArchiveFile, TaskRecord]:
        """Return the file and the archived record at a place."""
        file = self._manifest.file(place.file)
        if file is None:
            raise ArchiveFileMissing(
                f"the manifest of the archive has no file {place.file}",
                where=self._store.where,
                remedy="run `rootcellar archive verify`",
            )
        with self._place.open(file.path, file.bytes) as source:
            return file, FileReader(source, f"{self._place.where}: {file.path}").row(place.row).record

    # -- a file

    def _write(self, day: date, candidates: Iterator[_Candidate]) -> _Draft:
        name = f"{self._home}/{day.isoformat()[:7]}/{day.isoformat()}-{secrets.token_hex(8)}.parquet"
        special: dict[int, _Candidate] = {}
        begun = now()
        with self._place.write(name) as sink:
            writer = FileWriter(sink)
            for candidate in candidates:
                row = writer.add(candidate.record, candidate.reference, expires_at=self._expiry(candidate.record))
                self._on_row()
                if candidate.is_special:
                    special[row] = replace(candidate, record=TaskRecord(task_id="", state=""), reference=None)
                if writer.is_full or writer.rows >= self._manifest.rows_in_one_file:
                    break
            return _Draft(name, writer.close(), begun, special)

    def _commit(self, day: date, draft: _Draft) -> None:
        held = self._held_since(draft)

        tries = 0

        def all_copies() -> Iterator[Copy]:
            nonlocal tries
            tries += 1
            return copies()

        def copies() -> Iterator[Copy]:
            for row in self._rows_of(draft):
                special = draft.special.get(row.number)
                yield Copy(
                    row.number,
                    row.as_stored,
                    earlier=special.earlier if special else (),
                    is_kept=special.is_kept if special else True,
                    is_held=row.number in held,
                    others=special.others if special else (),
                )
            check_draft(self._place, draft.name, draft.written.bytes, draft.begun)

        older = {place.file for each in draft.special.values() for place in each.earlier + each.others}
        try:
            committed = self._manifest.commit_file(self._new_file(day, draft), all_copies, older=older)
        except RootcellarError as exc:
            # an earlier try, whose answer was lost, may have committed the file
            if tries == 1 and not exc.retryable:
                discard_draft(self._manifest, self._place, draft.name)
            raise
        self.progress.held += len(held)
        if committed.file is None:
            # nothing of it counts: all rows were stored again, or another run was faster
            self._place.delete(draft.name)
        else:
            self.progress.files += 1
            self.progress.bytes += draft.written.bytes
            if (file := self._manifest.file(committed.file)) is not None:
                write_copy(self._place, file)
        self.progress.archived += committed.removed - committed.dropped
        self.progress.dropped += committed.dropped
        self.progress.changed += max(0, committed.void - len(held) - committed.dropped)
        self._on_progress(committed.removed)

    def _active_holds(self) -> Sequence[Hold]:
        return self._holding.holds() if self._holding is not None else ()

    def _held_since(self, draft: _Draft) -> set[int]:
        """Return the rows of a new file that are held by now, because a hold was placed while it was written.

        One that is placed after this finds its results in the archive, whose files it protects too.
        """
        if self._active_holds() == self._known_holds:
            return set()
        held: set[int] = set()
        for some in in_batches(self._rows_of(draft), lambda row: row.record, _AT_ONCE):
            ids = self._holds.held([row.as_stored for row in some])
            held |= {row.number for row in some if row.record.task_id in ids}
        return held

    def _rows_of(self, draft: _Draft) -> Iterator[Row]:
        """Read a new file again, so that only what can be read is deleted."""
        with self._place.open(draft.name, draft.written.bytes) as source:
            yield from FileReader(source, f"{self._place.where}: {draft.name}").read()

    def _new_file(self, day: date, draft: _Draft) -> NewFile:
        written = draft.written
        return NewFile(
            location=self._place.where,
            path=draft.name,
            day=day,
            rows=written.rows,
            bytes=written.bytes,
            sha256=written.sha256,
            first_done=written.first_done,
            last_done=written.last_done,
            expires_at=written.expires_at,
        )


def manifest_of(store: Store) -> Manifest:
    """Return the manifest of a store.

    Raises:
        AbilityMissing: it has none.
    """
    manifest = store.ability(Manifest)
    if manifest is None:
        raise AbilityMissing(
            "this store has no transactions over many results, so it cannot archive them",
            where=store.where,
            remedy="keep results in PostgreSQL, MySQL, MariaDB or SQLite, alone or behind Redis; or write them to "
            "files with `rootcellar export`",
        )
    return manifest


def now() -> datetime:
    """Return the present."""
    return datetime.now(timezone.utc)


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while some := list(islice(iterator, size)):
        yield some
