"""Sums of digests of records, by which two systems are compared without sending the records from one to the other.

A record belongs to one of :data:`BUCKETS` buckets, by its id. A bucket has a count and the sum of the digests of its
records. Two equal systems have equal buckets, in whatever order they are read. A bucket takes 24 bytes, so that the
memory does not grow with the number of records.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from enum import Enum
from hashlib import blake2b

from rootcellar.records import GroupRecord, Payload, TaskRecord

#: so many that a bucket of a million records has about 15 of them
BUCKETS = 1 << 16
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MILLISECOND, _SECOND = timedelta(milliseconds=1), timedelta(seconds=1)
_MODULUS = 1 << 64
#: between two fields, and instead of a field without a value
_NEXT, _NONE = "\x1f", "\x1e"


class Difference(str, Enum):
    """The classes of differences, the most important first."""

    MISSING = "missing"
    ONLY_IN_TARGET = "only in target"
    STATE = "state"
    VALUE = "value"
    TRACEBACK = "traceback"
    TIMES = "times"
    CALL = "call"
    EXPIRY = "expiry"
    GROUP_MISSING = "group missing"
    GROUP_ONLY_IN_TARGET = "group only in target"
    GROUP = "group"


def bucket_of(record_id: str) -> int:
    """Return the number of the bucket of an id."""
    return zlib.crc32(record_id.encode("utf-8", "backslashreplace")) & (BUCKETS - 1)


class Sums:
    """The counts and sums of all buckets."""

    def __init__(self) -> None:
        self.counts = array("Q", bytes(8 * BUCKETS))
        self._sums = array("Q", bytes(8 * BUCKETS))

    def add(self, records: Iterable[TaskRecord], now: datetime) -> None:
        """Add records, except those that have expired."""
        counts, sums = self.counts, self._sums
        for record in records:
            if record.expires_at is not None and record.expires_at <= now:
                continue
            bucket = bucket_of(record.task_id)
            counts[bucket] += 1
            sums[bucket] = (sums[bucket] + digest(record)) % _MODULUS

    @property
    def total(self) -> int:
        """How many records were added."""
        return sum(self.counts)

    def differing(self, other: Sums) -> frozenset[int]:
        """Return the numbers of the buckets that are not equal."""
        if self.counts == other.counts and self._sums == other._sums:
            return frozenset()
        both = zip(self.counts, self._sums, other.counts, other._sums, strict=True)
        return frozenset(n for n, (mine, my_sum, its, its_sum) in enumerate(both) if mine != its or my_sum != its_sum)


def digest(record: TaskRecord) -> int:
    """Return 64 bits that are the same for the same record, in whichever store it is."""
    texts = (
        record.task_id,
        record.state,
        record.traceback,
        record.name,
        record.queue,
        record.worker,
        record.group_id,
        record.parent_id,
        record.root_id,
    )
    hashed = blake2b(_bytes(_NEXT.join([_NONE if text is None else text for text in texts])), digest_size=8)
    # integers have no text of another number between them
    hashed.update(
        b"|%r|%r|%r|%r|%r|%r"
        % (
            record.retries,
            record.group_index,
            _units(record.sent_at, _MILLISECOND),
            _units(record.started_at, _MILLISECOND),
            _units(record.done_at, _MILLISECOND),
            _units(record.expires_at, _SECOND),
        )
    )
    for payload in (record.result, record.args, record.kwargs, record.children, record.stamps):
        if payload is None:
            hashed.update(b"-")
            continue
        kind = (payload.content_type, payload.content_encoding, payload.compression, payload.key_id)
        hashed.update(b"+%d:" % len(payload.body) + payload.body + "|".join(kind).encode())
    return int.from_bytes(hashed.digest(), "big")


def differences(one: TaskRecord, other: TaskRecord) -> list[Difference]:
    """Return in what two records of the same task differ, the most important first.

    Times may differ by a millisecond, and the expiry by a second: servers round them.
    """
    found = []
    if one.state != other.state:
        found.append(Difference.STATE)
    if not _same_payload(one.result, other.result):
        found.append(Difference.VALUE)
    if not _same_text(one.traceback, other.traceback):
        found.append(Difference.TRACEBACK)
    times = ("sent_at", "started_at", "done_at")
    if not all(_near(getattr(one, name), getattr(other, name), _MILLISECOND) for name in times):
        found.append(Difference.TIMES)
    if not _same_call(one, other):
        found.append(Difference.CALL)
    if not _near(one.expires_at, other.expires_at, _SECOND):
        found.append(Difference.EXPIRY)
    return found


def same_group(one: GroupRecord, other: GroupRecord) -> bool:
    """Return whether two saved groups are the same; the times may differ as those of tasks do."""
    return (
        _same_payload(one.result, other.result)
        and _near(one.done_at, other.done_at, _MILLISECOND)
        and _near(one.expires_at, other.expires_at, _SECOND)
    )


def _same_call(one: TaskRecord, other: TaskRecord) -> bool:
    texts = ("name", "queue", "worker", "group_id", "parent_id", "root_id")
    payloads = ("args", "kwargs", "children", "stamps")
    return (
        (one.retries, one.group_index) == (other.retries, other.group_index)
        and all(_same_text(getattr(one, name), getattr(other, name)) for name in texts)
        and all(_same_payload(getattr(one, name), getattr(other, name)) for name in payloads)
    )


def _same_payload(one: Payload | None, other: Payload | None) -> bool:
    return one == other


def _same_text(one: str | None, other: str | None) -> bool:
    return one == other or (one is not None and other is not None and _bytes(one) == _bytes(other))


def _near(one: datetime | None, other: datetime | None, most: timedelta) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= most


def _bytes(text: str) -> bytes:
    # as SQL stores it: see rootcellar.stores.sql.rows.storable
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace")


def _units(moment: datetime | None, unit: timedelta) -> int | None:
    # rounded down, as MongoDB does
    return None if moment is None else (moment - _EPOCH) // unit
