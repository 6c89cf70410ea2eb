"""A store in the memory of one process, for tests: the smallest implementation of :class:`Store`.

It has only the abilities that need no server: it cannot be queried, has no tables, and is polled. It can be the source
and the target of a migration. The conformance suites run over it, which proves that they require only the interface.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta, timezone

from rootcellar.errors import ConfigurationError
from rootcellar.records import ChordPart, ChordProgress, ChordRecord, GroupRecord, PartResult, Stored, TaskRecord
from rootcellar.stores.base import DELETE_BATCH, Store, StoreOptions
from rootcellar.stores.mirroring import (
    NOTHING_KNOWN,
    Burial,
    CopyReport,
    Held,
    fingerprint,
    is_buried,
    is_buried_copy,
    joined_fingerprints,
    latest_end,
    may_be_copied,
    split_fingerprints,
)
from rootcellar.stores.shared_values import SharedValue

#: the fields of a task that each state replaces; the others stay until a later state has them
BELONG_TO_STATE = ("state", "result", "traceback", "done_at", "expires_at", "failure_group")
#: how long a finished chord refuses late parts
REMEMBERED = timedelta(days=1)


@dataclass
class _Chord:
    """A chord: begun, or known only by its size or its parts."""

    record: ChordRecord
    is_begun: bool = False
    size: int | None = None
    extra: int = 0
    keys: set[str | None] = field(default_factory=set)
    counted: int = 0
    parts: dict[tuple[str, int | None], ChordPart] = field(default_factory=dict)
    owner: str | None = None
    claimant: str | None = None
    claimed_until: float = 0.0
    finished_at: datetime | None = None

    @property
    def whole_size(self) -> int | None:
        return None if self.size is None else self.size + self.extra

    @property
    def waits_for_its_body(self) -> bool:
        return self.finished_at is None and self.whole_size is not None and self.counted >= self.whole_size

    @property
    def is_held(self) -> bool:
        return self.claimant is not None and time.monotonic() < self.claimed_until

    def count(self, part: ChordPart) -> None:
        self.owner = part.owner
        key = (part.task_id, part.group_index)
        if self.finished_at is None and key not in self.parts:
            self.parts[key] = part
            self.counted += 1
        if self.finished_at is None and _is_before(self.record.expires_at, part.expires_at):
            self.record = replace(self.record, expires_at=part.expires_at)

    def claim(self, claimant: str, lease: float) -> bool:
        if not self.waits_for_its_body or (self.is_held and self.claimant != claimant):
            return False
        self.claimant, self.claimed_until = claimant, time.monotonic() + lease
        return True

    def has_expired(self, now: datetime) -> bool:
        return _is_before(self.record.expires_at, now) or _is_before(self.finished_at, now - REMEMBERED)


@dataclass(frozen=True)
class _Burial:
    """A burial, with its fingerprints in the order in which they were added."""

    buried_at: datetime
    done_at: datetime | None = None
    fingerprints: bytes = b""

    def of(self, task_id: str) -> Burial:
        found = frozenset(split_fingerprints(self.fingerprints))
        return Burial(task_id=task_id, buried_at=self.buried_at, done_at=self.done_at, fingerprints=found)


@dataclass
class _Place:
    tasks: dict[str, TaskRecord] = field(default_factory=dict)
    groups: dict[str, GroupRecord] = field(default_factory=dict)
    chords: dict[str, _Chord] = field(default_factory=dict)
    burials: dict[str, _Burial] = field(default_factory=dict)
    values: dict[str, SharedValue] = field(default_factory=dict)

    def burial(self, task_id: str) -> Burial | None:
        found = self.burials.get(task_id)
        return None if found is None else found.of(task_id)

    def bury(self, task_id: str, known: Sequence[TaskRecord]) -> TaskRecord | None:
        gone = self.tasks.pop(task_id, None)
        buried = [*known, *([] if gone is None else [gone])]
        earlier = self.burials.get(task_id, _Burial(_now()))
        joined = joined_fingerprints(earlier.fingerprints, buried)
        self.burials[task_id] = _Burial(_now(), latest_end(buried, earlier.done_at), joined)
        return gone

    def chord(self, group_id: str) -> _Chord:
        return self.chords.setdefault(group_id, _Chord(ChordRecord(group_id=group_id)))


_places: dict[str, _Place] = {}
_lock = threading.Lock()
# otherwise a child that is forked while another thread holds the lock waits for ever
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def forget_place(url: str) -> None:
    """Remove all that is stored under a URL."""
    with _lock:
        _places.pop(url, None)


class MemoryStore(Store):
    """The store for ``rootcellar+memory://name``: every store of that name in this process holds the same records."""

    def __init__(self, url: str, options: StoreOptions | None = None) -> None:
        super().__init__(url, options)
        self._name = url.partition("://")[2]
        if not self._name:
            raise ConfigurationError("the URL names no place", where=url, remedy="write rootcellar+memory://name")

    @property
    def where(self) -> str:
        return f"memory {self._name}"

    @property
    def _place(self) -> _Place:
        return _places.setdefault(self.url, _Place())

    def clear(self) -> None:
        """Remove all records."""
        forget_place(self.url)

    # -- tasks

    def put(
        self, record: TaskRecord, part: ChordPart | None = None, *, lease: float = 30.0, durable: bool = True
    ) -> Stored:
        with _lock:
            earlier = self._place.tasks.get(record.task_id)
            written = earlier is None or not _stays(earlier, record)
            if written:
                self._place.tasks[record.task_id] = _merged(earlier, record)
            return Stored(written=written, chord=self._count(_with_result(part, record), lease) if part else None)

    def put_sent(self, records: Sequence[TaskRecord]) -> None:
        """See :class:`~rootcellar.stores.base.RecordsSent`."""
        with _lock:
            for record in records:
                self._place.tasks.setdefault(record.task_id, record)

    def get(self, task_id: str) -> TaskRecord | None:
        return self.get_many([task_id]).get(task_id)

    def get_many(self, task_ids: Iterable[str]) -> dict[str, TaskRecord]:
        with _lock:
            tasks = self._place.tasks
            return {task_id: tasks[task_id] for task_id in task_ids if task_id in tasks}

    def delete(self, task_ids: Iterable[str]) -> int:
        with _lock:
            return sum(self._place.tasks.pop(task_id, None) is not None for task_id in task_ids)

    def replace(self, old: TaskRecord, new: TaskRecord) -> bool:
        with _lock:
            is_same = self._place.tasks.get(old.task_id) == old
            if is_same:
                self._place.tasks[old.task_id] = new
            return is_same

    def scan(self, after: str | None = None, limit: int = 1_000) -> Sequence[TaskRecord]:
        with _lock:
            tasks = self._place.tasks
            return [tasks[task_id] for task_id in sorted(tasks) if after is None or task_id > after][:limit]

    # -- migration: see rootcellar.stores.mirroring

    def mirror(self, record: TaskRecord) -> Held:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        with _lock:
            place, task_id = self._place, record.task_id
            earlier = place.tasks.get(task_id)
            if is_buried(record, place.burial(task_id)):
                return Held(earlier, buried=True)
            if earlier is None or not _stays(earlier, record):
                place.tasks[task_id] = _merged(earlier, record)
            return Held(place.tasks[task_id])

    def settle(self, record: TaskRecord) -> Held:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        with _lock:
            place, task_id = self._place, record.task_id
            if is_buried(record, place.burial(task_id)):
                return Held(place.tasks.get(task_id), buried=True)
            place.tasks[task_id] = record
            return Held(record)

    def copy(self, records: Sequence[TaskRecord], *, newer_wins: bool = False) -> CopyReport:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`. It counts as any other write for waiting clients."""
        written, kept, buried = set(), set(), set()
        with _lock:
            place = self._place
            for record in records:
                if is_buried_copy(record, place.burial(record.task_id)):
                    buried.add(record.task_id)
                elif may_be_copied(record, place.tasks.get(record.task_id), newer_wins=newer_wins):
                    place.tasks[record.task_id] = record
                    written.add(record.task_id)
                else:
                    kept.add(record.task_id)
        return CopyReport(written=frozenset(written), kept=frozenset(kept), buried=frozenset(buried))

    def bury(
        self, task_ids: Iterable[str], known: Mapping[str, Sequence[TaskRecord]] = NOTHING_KNOWN
    ) -> Mapping[str, TaskRecord]:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        with _lock:
            gone = {task_id: self._place.bury(task_id, known.get(task_id, ())) for task_id in dict.fromkeys(task_ids)}
        return {task_id: record for task_id, record in gone.items() if record is not None}

    def bury_same(self, records: Sequence[TaskRecord]) -> int:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        count = 0
        with _lock:
            for record in records:
                stored = self._place.tasks.get(record.task_id)
                if stored is not None and fingerprint(stored) == fingerprint(record):
                    self._place.bury(record.task_id, [record])
                    count += 1
        return count

    def burials(self, after: str | None = None, limit: int = 1_000) -> tuple[Sequence[Burial], str | None]:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`. They are in the order of their ids."""
        with _lock:
            ids, cursor = _page(self._place.burials, after, limit)
            return [self._place.burials[task_id].of(task_id) for task_id in ids], cursor

    def burials_of(self, task_ids: Iterable[str]) -> Mapping[str, Burial]:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        with _lock:
            burials = self._place.burials
            return {task_id: burials[task_id].of(task_id) for task_id in task_ids if task_id in burials}

    def forget_burials(self, before: datetime | None) -> int:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        with _lock:
            burials = self._place.burials
            gone = [key for key, one in burials.items() if before is None or one.buried_at < before]
            for key in gone:
                del burials[key]
            return len(gone)

    def stream(self, cursor: str | None = None, limit: int = 1_000) -> tuple[Sequence[TaskRecord], str | None]:
        """See :class:`~rootcellar.stores.streaming.Streamed`. They are in the order of their ids."""
        with _lock:
            ids, following = _page(self._place.tasks, cursor, limit)
            return [self._place.tasks[task_id] for task_id in ids], following

    def stream_groups(self, cursor: str | None = None, limit: int = 1_000) -> tuple[Sequence[GroupRecord], str | None]:
        """See :class:`~rootcellar.stores.streaming.Streamed`. They are in the order of their ids."""
        with _lock:
            ids, following = _page(self._place.groups, cursor, limit)
            return [self._place.groups[group_id] for group_id in ids], following

    def copy_groups(self, groups: Sequence[GroupRecord], *, newer_wins: bool = False) -> int:
        """See :class:`~rootcellar.stores.streaming.Streamed`."""
        count = 0
        with _lock:
            for group in groups:
                earlier = self._place.groups.get(group.group_id)
                if earlier is None or (newer_wins and group.done_at > earlier.done_at):
                    self._place.groups[group.group_id] = group
                    count += 1
        return count

    def count_roughly(self) -> int:
        """See :class:`~rootcellar.stores.streaming.Streamed`. It is exact."""
        with _lock:
            return len(self._place.tasks)

    def open_chords(self) -> int:
        """See :class:`~rootcellar.stores.streaming.Streamed`."""
        with _lock:
            return sum(chord.is_begun and chord.finished_at is None for chord in self._place.chords.values())

    def shared(self, prefix: str) -> Mapping[str, SharedValue]:
        """See :class:`~rootcellar.stores.shared_values.SharesValues`."""
        with _lock:
            return {key: value for key, value in self._place.values.items() if key.startswith(prefix)}

    def share(self, key: str, value: str, *, if_version: int | None = None) -> int | None:
        """See :class:`~rootcellar.stores.shared_values.SharesValues`."""
        with _lock:
            earlier = self._place.values.get(key)
            version = 0 if earlier is None else earlier.version
            if if_version not in (None, version):
                return None
            self._place.values[key] = SharedValue(key=key, value=value, version=version + 1, changed_at=_now())
            return version + 1

    def unshare(self, keys: Sequence[str]) -> int:
        """See :class:`~rootcellar.stores.shared_values.SharesValues`."""
        with _lock:
            return sum(self._place.values.pop(key, None) is not None for key in keys)

    def server_time(self) -> datetime:
        """See :class:`~rootcellar.stores.shared_values.SharesValues`."""
        return _now()

    # -- groups

    def put_group(self, group: GroupRecord) -> None:
        with _lock:
            self._place.groups[group.group_id] = group

    def get_group(self, group_id: str) -> GroupRecord | None:
        with _lock:
            return self._place.groups.get(group_id)

    def delete_group(self, group_id: str) -> None:
        with _lock:
            self._place.groups.pop(group_id, None)

    # -- chords

    def begin_chord(self, chord: ChordRecord) -> None:
        with _lock:
            self._place.chords[chord.group_id] = _Chord(chord, is_begun=True)

    def size_chord(self, group_id: str, size: int, *, relative: bool = False, key: str | None = None) -> None:
        with _lock:
            chord = self._place.chord(group_id)
            if not relative:
                chord.size = size
            elif key is None or key not in chord.keys:
                chord.extra += size
                chord.keys.add(key)

    def count_part(self, part: ChordPart, *, lease: float = 30.0) -> ChordProgress:
        with _lock:
            return self._count(part, lease)

    def claim_chord(self, group_id: str, claimant: str, *, lease: float = 30.0) -> bool:
        with _lock:
            chord = self._place.chords.get(group_id)
            return chord is not None and chord.claim(claimant, lease)

    def get_chord(self, group_id: str) -> ChordRecord | None:
        with _lock:
            chord = self._place.chords.get(group_id)
            return chord.record if chord and chord.is_begun and chord.finished_at is None else None

    def chord_parts(self, group_id: str) -> Sequence[PartResult]:
        with _lock:
            chord = self._place.chords.get(group_id)
            parts = chord.parts.values() if chord else ()
            return [self._part_result(part) for part in sorted(parts, key=_place_in_header)]

    def living_parts(self, task_ids: Sequence[str]) -> set[str]:
        """See :class:`~rootcellar.stores.base.KnowsParts`."""
        with _lock:
            return {part for chord in self._place.chords.values() for part, _ in chord.parts}.intersection(task_ids)

    def finish_chord(self, group_id: str) -> None:
        with _lock:
            chord = self._place.chords.get(group_id)
            if chord:
                chord.finished_at = _now()
                chord.record = replace(chord.record, body=None, header=None)
                chord.parts.clear()

    def orphaned_chords(self, owner: str, limit: int = 100) -> Sequence[str]:
        with _lock:
            return [
                group_id
                for group_id, chord in self._place.chords.items()
                if chord.owner == owner and chord.waits_for_its_body and not chord.is_held
            ][:limit]

    # -- time and end

    def delete_expired(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        with _lock:
            place = self._place
            tasks = [key for key, task in place.tasks.items() if _is_before(task.expires_at, now)][:limit]
            groups = [key for key, group in place.groups.items() if _is_before(group.expires_at, now)][:limit]
            for key in tasks:
                del place.tasks[key]
            for key in groups:
                del place.groups[key]
            place.chords = {key: chord for key, chord in place.chords.items() if not chord.has_expired(now)}
            return len(tasks) + len(groups)

    def check(self) -> None:
        """Do nothing: there is nothing to connect to."""

    def close(self) -> None:
        """Do nothing: the records stay."""

    # -- with the lock held

    def _count(self, part: ChordPart, lease: float) -> ChordProgress:
        place = self._place
        if part.group_id not in place.chords:
            place.chords[part.group_id] = _Chord(ChordRecord(group_id=part.group_id, expires_at=part.expires_at))
        chord = place.chords[part.group_id]
        chord.count(part)
        claimed = chord.claim(f"{part.task_id}/{part.group_index}/{part.delivery}", lease)
        return ChordProgress(
            size=chord.whole_size, counted=chord.counted, claimed=claimed, finished=chord.finished_at is not None
        )

    def _part_result(self, part: ChordPart) -> PartResult:
        result = part.result
        if result is None and part.task_id in self._place.tasks:
            result = self._place.tasks[part.task_id].result
        return PartResult(task_id=part.task_id, group_index=part.group_index, state=part.state, result=result)


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _page(ids: Iterable[str], after: str | None, limit: int) -> tuple[list[str], str | None]:
    """Return the first ids after one, and the last of them if there are more."""
    found = sorted(key for key in ids if after is None or key > after)
    return found[:limit], found[limit - 1] if len(found) > limit else None


def _merged(earlier: TaskRecord | None, later: TaskRecord) -> TaskRecord:
    if earlier is None:
        return later
    given = {one.name: getattr(later, one.name) for one in fields(TaskRecord)}
    of_state = BELONG_TO_STATE if later.done_at is None else (*BELONG_TO_STATE, "children")
    return replace(earlier, **{k: v for k, v in given.items() if v is not None or k in of_state})


def _place_in_header(part: ChordPart) -> tuple[bool, int, str]:
    return part.group_index is None, part.group_index or 0, part.task_id


def _is_before(moment: datetime | None, now: datetime | None) -> bool:
    return moment is not None and now is not None and moment < now


def _with_result(part: ChordPart, record: TaskRecord) -> ChordPart:
    """Return the part with its own result: if it has none, with that of the record."""
    return part if part.result is not None else replace(part, result=record.result)


def _stays(earlier: TaskRecord, record: TaskRecord) -> bool:
    """Return whether the earlier record must stay: it is a SUCCESS, or the end of a later run than that of `record`."""
    is_late = record.done_at is None and (earlier.retries or 0) > (record.retries or 0)
    return earlier.state == "SUCCESS" or (earlier.done_at is not None and is_late)
