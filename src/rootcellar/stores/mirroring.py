"""The ability to be one of the two stores of a migration.

Both stores get each new result. What one of them has already is copied into the other, while results are stored, read
and forgotten. A *burial* says that a result was forgotten: a late copy of it must not bring it back. A burial stays
beside a newer record of the same task. ``get`` and ``put`` never look at burials.

In the names of this module, a *mirror* is a copy of what the other store has just stored, and the other store decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from hashlib import blake2b
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from rootcellar.records import TaskRecord

#: the bytes of a fingerprint
FINGERPRINT_BYTES = 16
#: how many fingerprints a burial names at most; the oldest ones are left out
MOST_FINGERPRINTS = 64
#: how long a burial is kept
BURIALS_KEPT = timedelta(days=7)
#: the beginning of the keys of the shared values of a migration; while there is one, burials are kept
MIGRATION_KEYS = "migration/"

#: the default of the argument ``known`` of :meth:`Mirrored.bury`
NOTHING_KNOWN: Mapping[str, Sequence[TaskRecord]] = MappingProxyType({})
_EARLIEST = datetime.min.replace(tzinfo=timezone.utc)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Held:
    """The answer of :meth:`Mirrored.mirror` and :meth:`Mirrored.settle`.

    Attributes:
        record: what the store holds afterwards; ``None`` for nothing. If it was written, this may be the passed record,
            without the fields that the store has kept of an earlier state.
        buried: whether the passed record was refused because of a burial.
    """

    record: TaskRecord | None
    buried: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Burial:
    """Says that a task's results were forgotten.

    Attributes:
        task_id: the task.
        buried_at: when the last of them was forgotten, by the clock of the store or of the caller.
        done_at: the latest ``done_at`` of what was forgotten; ``None`` if none of it was done.
        fingerprints: the fingerprints of what was forgotten, at most the last :data:`MOST_FINGERPRINTS`.
    """

    task_id: str
    buried_at: datetime
    done_at: datetime | None = None
    fingerprints: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyReport:
    """What :meth:`Mirrored.copy` did with each of the records that were passed.

    Attributes:
        written: the ids of those that were written.
        kept: the ids of those that were not written, because the store's own record stays.
        buried: the ids of those that were refused because of a burial.
        refused: the ids of those that this store cannot keep, such as too large ones, each with the reason.
    """

    written: frozenset[str] = field(default=frozenset())
    kept: frozenset[str] = field(default=frozenset())
    buried: frozenset[str] = field(default=frozenset())
    refused: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class Mirrored(Protocol):
    """A store that can be the source or the target of a migration.

    Each method takes effect completely or not at all for each task.
    """

    def mirror(self, record: TaskRecord) -> Held:
        """Store a record of the other store, by the rules of :meth:`~rootcellar.stores.base.Store.put`.

        It is refused if :func:`is_buried` says so. Waiting clients are notified.
        """

    def settle(self, record: TaskRecord) -> Held:
        """Store the SUCCESS of the other store, whatever is stored, also another SUCCESS.

        The whole record is replaced: no field keeps its stored value. It is refused if :func:`is_buried` says so.
        Waiting clients are notified.
        """

    def copy(self, records: Sequence[TaskRecord], *, newer_wins: bool = False) -> CopyReport:
        """Store records of the other store where there is none, and a SUCCESS where the stored record is no SUCCESS.

        A record that is done also replaces one that is not done, unless that has a later :func:`moment`.
        What is written is the whole record. A record is refused if :func:`is_buried_copy` says so, and if the store
        cannot keep it. A store may leave out the notification of waiting clients; it says so.

        Args:
            records: the records, each of another task.
            newer_wins: whether a record also replaces one with an earlier :func:`moment`, whatever its state, and
                replaces no other one.
        """

    def bury(
        self, task_ids: Iterable[str], known: Mapping[str, Sequence[TaskRecord]] = NOTHING_KNOWN
    ) -> Mapping[str, TaskRecord]:
        """Delete the records of these tasks, and store a burial of each task, also of those without a record.

        What a burial named before stays in it.

        Args:
            task_ids: the tasks.
            known: records of these tasks that the other store has or had; the burials name them too.

        Returns:
            the records that were deleted, by id.
        """

    def bury_same(self, records: Sequence[TaskRecord]) -> int:
        """Do what :meth:`bury` does, where the stored record has the same :func:`fingerprint`; return how many."""

    def burials(self, after: str | None = None, limit: int = 1_000) -> tuple[Sequence[Burial], str | None]:
        """Return about ``limit`` burials, and the cursor for the next call; ``None`` at the end.

        A walk returns at least once each burial that exists during the whole walk.

        Args:
            after: the cursor that the previous call returned; ``None`` from the beginning.
            limit: about how many.
        """

    def burials_of(self, task_ids: Iterable[str]) -> Mapping[str, Burial]:
        """Return the burials of these tasks, by id."""

    def forget_burials(self, before: datetime | None) -> int:
        """Delete the burials from before a moment, or all; return how many."""


def fingerprint(record: TaskRecord) -> bytes:
    """Return 16 bytes that are the same for the same result, in whichever store it is.

    They are made of the id, the state, the result, the traceback, and ``done_at`` in milliseconds. All stores keep
    these exactly, except for characters that SQL cannot store: these count as their escapes.
    """
    result = record.result
    parts = [_text(record.task_id), _text(record.state), _text(record.traceback), _milliseconds(record.done_at)]
    if result is not None:
        parts.append(result.body)
        parts += map(_text, (result.content_type, result.content_encoding, result.compression, result.key_id))
    digest = blake2b(digest_size=FINGERPRINT_BYTES)
    for part in parts:
        digest.update(b"-" if part is None else b"%d:" % len(part))
        digest.update(part or b"")
    return digest.digest()


def moment(record: TaskRecord) -> datetime:
    """Return when a record was made: its end, or else its start, or else when it was sent; or the earliest date."""
    return record.done_at or record.started_at or record.sent_at or _EARLIEST


def is_buried(record: TaskRecord, burial: Burial | None) -> bool:
    """Return whether a mirror of a record is refused: a burial names it, or a result that ended later or then."""
    if burial is None:
        return False
    if record.done_at is not None and burial.done_at is not None and record.done_at <= burial.done_at:
        return True
    return fingerprint(record) in burial.fingerprints


def is_buried_copy(record: TaskRecord, burial: Burial | None) -> bool:
    """Return whether a copy of a record is refused: as a mirror, or because it was made before the burial."""
    return burial is not None and (moment(record) <= burial.buried_at or is_buried(record, burial))


def may_be_copied(record: TaskRecord, stored: TaskRecord | None, *, newer_wins: bool = False) -> bool:
    """Return whether :meth:`Mirrored.copy` writes a record over the one that is stored, if there is no burial."""
    if stored is None:
        return True
    if newer_wins:
        return moment(record) > moment(stored)
    if record.state == "SUCCESS" or stored.state == "SUCCESS":
        return stored.state != "SUCCESS"
    # its writer was killed before it could mirror it; a state of a later run is newer, and stays
    return record.done_at is not None and stored.done_at is None and moment(record) >= moment(stored)


def latest_end(records: Iterable[TaskRecord], earlier: datetime | None = None) -> datetime | None:
    """Return the latest ``done_at`` of records and of an earlier burial."""
    return max((end for end in (earlier, *(record.done_at for record in records)) if end is not None), default=None)


def joined_fingerprints(earlier: bytes, records: Iterable[TaskRecord]) -> bytes:
    """Return the fingerprints of a burial as one text of bytes: the earlier ones, and those of records.

    At most :data:`MOST_FINGERPRINTS` are kept, each once, the latest last.
    """
    known = dict.fromkeys([*split_fingerprints(earlier), *map(fingerprint, records)])
    return b"".join(list(known)[-MOST_FINGERPRINTS:])


def split_fingerprints(joined: bytes) -> list[bytes]:
    """Return the fingerprints in what :func:`joined_fingerprints` returned."""
    return [joined[start : start + FINGERPRINT_BYTES] for start in range(0, len(joined), FINGERPRINT_BYTES)]


def _text(text: str | None) -> bytes | None:
    # as SQL stores it: see rootcellar.stores.sql.rows.storable
    return None if text is None else text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace")


def _milliseconds(date: datetime | None) -> bytes | None:
    # rounded down, as MongoDB does
    return None if date is None else b"%d" % ((date - _EPOCH) // _MILLISECOND)
