"""What a migration needs of MongoDB: records of the other store, and burials in a collection of their own.

A stand-alone server has no transaction over several documents, so each change is made in an order that needs none::

    bury:                  the burial is written ──> the document is deleted
    mirror, settle, copy:  the burial is read ──> the document is written ──> the burial is read again

If the second reading finds a burial that refuses the document, the document is removed. So one of the two removes it:
the writer, if the burial is older than the document, or else the one that buries. Two things remain. A reader may see
the document for a moment. And if the writer is killed between its last two steps, and the burial was written between
its first two, the document stays until the task is forgotten again, or a pass finds that the other store lacks it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from typing import Any, Protocol, TypeVar

from bson import Binary
from pymongo import DeleteOne, UpdateOne
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure, WriteError

from rootcellar.errors import RecordRefused, StoreUnavailable
from rootcellar.records import TaskRecord
from rootcellar.stores.layouts import documents
from rootcellar.stores.mirroring import (
    BURIALS_KEPT,
    MOST_FINGERPRINTS,
    NOTHING_KNOWN,
    Burial,
    CopyReport,
    Held,
    fingerprint,
    is_buried,
    is_buried_copy,
    latest_end,
    may_be_copied,
)
from rootcellar.stores.mongodb.collections import Collections
from rootcellar.stores.mongodb.driver import Document
from rootcellar.stores.mongodb.writing import DUPLICATE, NO_DOCUMENT, drop_damaged_subdocument, write

T = TypeVar("T")

#: how many times a change is tried if other processes store the same task at the same moment
_TRIES = 100


class Run(Protocol):
    """Calls a function with the collections, and raises errors of rootcellar."""

    def __call__(self, work: Callable[[Collections], T]) -> T:
        """Return what the function returns."""


class MongoMirror:
    """The ability :class:`~rootcellar.stores.mirroring.Mirrored` of MongoDB.

    Args:
        run: calls a function with the collections.
        makes_indexes: whether the index that deletes old burials may be created.
        where: the server, for messages.
    """

    def __init__(self, run: Run, makes_indexes: bool, where: str) -> None:
        self._run_with = run
        self._has_index = not makes_indexes
        self._where = where

    def _run(self, work: Callable[[Collections], T]) -> T:
        def with_index(at: Collections) -> T:
            if not self._has_index:
                _make_index(at)
                self._has_index = True
            return work(at)

        return self._run_with(with_index)

    # -- one record

    def mirror(self, record: TaskRecord) -> Held:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        return self._run(lambda at: _bring(at, record, lambda: write(at.task, record, None)))

    def settle(self, record: TaskRecord) -> Held:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        return self._run(lambda at: _bring(at, record, lambda: _replace(at.task, record)))

    # -- many records

    def copy(self, records: Sequence[TaskRecord], *, newer_wins: bool = False) -> CopyReport:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`. Waiting clients find the records, because they poll."""
        refused: dict[str, str] = {}
        report = CopyReport()
        for some in _pieces(records):
            try:
                found = self._run(partial(_copy, records=some, newer_wins=newer_wins))
            except RecordRefused:
                # the driver refuses all records of a command if it refuses one of them
                found = self._copy_each(some, newer_wins, refused)
            report = CopyReport(
                written=report.written | found.written,
                kept=report.kept | found.kept,
                buried=report.buried | found.buried,
            )
        return CopyReport(written=report.written, kept=report.kept, buried=report.buried, refused=refused)

    def _copy_each(self, records: Sequence[TaskRecord], newer_wins: bool, refused: dict[str, str]) -> CopyReport:
        written: set[str] = set()
        kept: set[str] = set()
        buried: set[str] = set()
        for record in records:
            try:
                found = self._run(partial(_copy, records=[record], newer_wins=newer_wins))
            except RecordRefused as exc:
                refused[record.task_id] = str(exc)
                continue
            written |= found.written
            kept |= found.kept
            buried |= found.buried
        return CopyReport(written=frozenset(written), kept=frozenset(kept), buried=frozenset(buried))

    # -- burials

    def bury(
        self, task_ids: Iterable[str], known: Mapping[str, Sequence[TaskRecord]] = NOTHING_KNOWN
    ) -> Mapping[str, TaskRecord]:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        ids = documents.findable(task_ids)

        def work(at: Collections) -> dict[str, TaskRecord]:
            found: dict[str, TaskRecord] = {}
            for some in documents.chunks(ids):
                left: Sequence[str] = some
                for _ in range(_TRIES):
                    there = _read(at.task, left)
                    records = {task_id: documents.task_record(document) for task_id, document in there.items()}
                    named = {
                        task_id: [*known.get(task_id, ()), *filter(None, [records.get(task_id)])] for task_id in left
                    }
                    _add_burials(at.buried, named)
                    found |= records
                    _delete_same(at, there)
                    # documents that were written since they were read, before the burials were
                    left = [document["_id"] for document in at.task.find({"_id": {"$in": list(left)}}, {"_id": 1})]
                    if not left:
                        break
                else:
                    raise self._contention()
            return found

        return self._run(work)

    def bury_same(self, records: Sequence[TaskRecord]) -> int:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        names = {record.task_id: fingerprint(record) for record in records}

        def work(at: Collections) -> int:
            count = 0
            for some in documents.chunks(documents.findable(names)):
                there = _read(at.task, some)
                found = {task_id: documents.task_record(document) for task_id, document in there.items()}
                same = {task_id: [one] for task_id, one in found.items() if fingerprint(one) == names[task_id]}
                _add_burials(at.buried, same)
                count += _delete_same(at, {task_id: there[task_id] for task_id in same})
            return count

        return self._run(work)

    def burials(self, after: str | None = None, limit: int = 1_000) -> tuple[Sequence[Burial], str | None]:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`. The cursor is the last id."""

        def work(at: Collections) -> list[Document]:
            return list(at.buried.find({"_id": {"$gt": after or ""}}).sort("_id", 1).limit(limit))

        found = [_burial(document) for document in self._run(work)]
        return found, found[-1].task_id if len(found) == limit else None

    def burials_of(self, task_ids: Iterable[str]) -> Mapping[str, Burial]:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        ids = documents.findable(task_ids)
        return self._run(lambda at: _burials(at.buried, ids))

    def forget_burials(self, before: datetime | None) -> int:
        """See :class:`~rootcellar.stores.mirroring.Mirrored`."""
        old: Document = {} if before is None else {"at": {"$lt": before}}
        return self._run(lambda at: at.buried.delete_many(old).deleted_count)

    def _contention(self) -> StoreUnavailable:
        return StoreUnavailable(
            "other processes stored the task again and again",
            where=self._where,
            remedy="try again; see what stores the same task so often",
        )


def _make_index(at: Collections) -> None:
    try:
        at.buried.create_index("expires_at", expireAfterSeconds=0)
    except OperationFailure as exc:
        # another index of the same name or on the same field
        if exc.code not in (85, 86):
            raise


# -- documents


def _bring(at: Collections, record: TaskRecord, change: Callable[[], bool]) -> Held:
    """Make a change that brings a record of the other store, unless it is buried before or meanwhile."""
    if is_buried(record, _burial_of(at, record.task_id)):
        return Held(_stored(at, record.task_id), buried=True)
    if not change():
        return Held(_stored(at, record.task_id))
    if is_buried(record, _burial_of(at, record.task_id)):
        at.task.delete_one(documents.same_written(record))
        return Held(_stored(at, record.task_id), buried=True)
    return Held(record)


def _replace(tasks: Collection[Document], record: TaskRecord) -> bool:
    """Store a whole record, whatever is stored."""
    update = documents.whole_update(record)
    while True:
        try:
            tasks.update_one({"_id": record.task_id}, update, upsert=True)
            return True
        except DuplicateKeyError:
            # another process stored it between the search and the insertion
            continue
        except WriteError as exc:
            if exc.code != NO_DOCUMENT or not drop_damaged_subdocument(tasks, record.task_id):
                raise


def _stored(at: Collections, task_id: str) -> TaskRecord | None:
    found = at.task.find_one({"_id": task_id})
    return None if found is None else documents.task_record(found)


def _read(tasks: Collection[Document], ids: Sequence[str]) -> dict[str, Document]:
    return {found["_id"]: found for found in tasks.find({"_id": {"$in": list(ids)}})} if ids else {}


def _delete_same(at: Collections, there: Mapping[str, Document]) -> int:
    """Delete the documents that have not changed since they were read; return how many."""
    if not there:
        return 0
    at.chords.count_notes(list(there))
    deletions = [DeleteOne(documents.same_result(document)) for document in there.values()]
    return at.task.bulk_write(deletions, ordered=False).deleted_count


# -- copies


def _pieces(records: Sequence[TaskRecord]) -> Iterable[Sequence[TaskRecord]]:
    for start in range(0, len(records), documents.MAX_IDS):
        yield records[start : start + documents.MAX_IDS]


def _copy(at: Collections, records: Sequence[TaskRecord], newer_wins: bool) -> CopyReport:
    by_id = {record.task_id: record for record in records}
    before = _burials(at.buried, list(by_id))
    buried = {task_id for task_id, record in by_id.items() if is_buried_copy(record, before.get(task_id))}
    new = [record for task_id, record in by_id.items() if task_id not in buried]
    # a SUCCESS replaces all that is none, so nothing need be read
    direct = [] if newer_wins else [record for record in new if record.state == "SUCCESS"]
    written = _copy_successes(at.task, direct)
    written |= _copy_compared(
        at.task, new if newer_wins else [one for one in new if one.state != "SUCCESS"], newer_wins
    )
    after = _burials(at.buried, list(written))
    late = [by_id[task_id] for task_id, burial in after.items() if is_buried_copy(by_id[task_id], burial)]
    if late:
        at.task.bulk_write([DeleteOne(documents.same_written(record)) for record in late], ordered=False)
        buried |= {record.task_id for record in late}
    return CopyReport(
        written=frozenset(written - buried), kept=frozenset(by_id.keys() - written - buried), buried=frozenset(buried)
    )


def _copy_successes(tasks: Collection[Document], records: Sequence[TaskRecord]) -> set[str]:
    """Store each SUCCESS where there is none; return what was written."""
    if not records:
        return set()
    changes = [
        UpdateOne({"_id": one.task_id, "status": {"$ne": "SUCCESS"}}, documents.whole_update(one), upsert=True)
        for one in records
    ]
    failed: set[str] = set()
    damaged: list[TaskRecord] = []
    try:
        tasks.bulk_write(changes, ordered=False)
    except BulkWriteError as exc:
        for error in exc.details["writeErrors"]:
            record = records[error["index"]]
            failed.add(record.task_id)
            if error["code"] == NO_DOCUMENT and drop_damaged_subdocument(tasks, record.task_id):
                damaged.append(record)
            # a SUCCESS is stored already, or another process stored it at this moment
            elif error["code"] != DUPLICATE:
                raise
    return {record.task_id for record in records} - failed | _copy_successes(tasks, damaged)


def _copy_compared(tasks: Collection[Document], records: Sequence[TaskRecord], newer_wins: bool) -> set[str]:
    """Store records where there is none, or one that they may replace; return what was written."""
    written: set[str] = set()
    left = list(records)
    for _ in range(_TRIES):
        written |= _insert(tasks, left)
        left = [record for record in left if record.task_id not in written]
        there = _read(tasks, [record.task_id for record in left])
        again = []
        for record in left:
            document = there.get(record.task_id)
            stored = None if document is None else documents.task_record(document)
            if not may_be_copied(record, stored, newer_wins=newer_wins):
                continue
            if document is not None and _replace_same(tasks, document, record):
                written.add(record.task_id)
            else:
                again.append(record)
        left = again
        if not left:
            break
    return written


def _insert(tasks: Collection[Document], records: Sequence[TaskRecord]) -> set[str]:
    """Store records where there is none; return the ids of those."""
    if not records:
        return set()
    insertions = [UpdateOne({"_id": one.task_id}, documents.insertion(one), upsert=True) for one in records]
    try:
        result: Any = tasks.bulk_write(insertions, ordered=False).bulk_api_result
    except BulkWriteError as exc:
        result = exc.details
        if any(error["code"] != DUPLICATE for error in result["writeErrors"]):
            raise
    return {upserted["_id"] for upserted in result["upserted"]}


def _replace_same(tasks: Collection[Document], document: Document, record: TaskRecord) -> bool:
    """Store a whole record over a document that has not changed since it was read; return whether it was stored."""
    try:
        return tasks.update_one(documents.same_result(document), documents.whole_update(record)).matched_count == 1
    except WriteError as exc:
        if exc.code != NO_DOCUMENT:
            raise
        drop_damaged_subdocument(tasks, record.task_id)
        return False


# -- burials


def _add_burials(buried: Collection[Document], named: Mapping[str, Sequence[TaskRecord]]) -> None:
    """Write burials that name these records, in addition to what they named before."""
    if not named:
        return
    before = _burials(buried, list(named))
    expires_at = datetime.now(timezone.utc) + BURIALS_KEPT
    changes = []
    for task_id, records in named.items():
        known = before[task_id].fingerprints if task_id in before else frozenset()
        new = [name for name in dict.fromkeys(map(fingerprint, records)) if name not in known]
        change: Document = {
            "$currentDate": {"at": True},
            "$set": {"expires_at": expires_at},
            "$push": {"names": {"$each": [Binary(name) for name in new], "$slice": -MOST_FINGERPRINTS}},
        }
        if (end := latest_end(records)) is not None:
            change["$max"] = {"done": documents.microseconds(end)}
        changes.append(UpdateOne({"_id": task_id}, change, upsert=True))
    for _ in range(_TRIES):
        try:
            buried.bulk_write(changes, ordered=False)
            return
        except BulkWriteError as exc:
            # another process wrote the same burial between the search and the insertion
            errors = exc.details["writeErrors"]
            if any(error["code"] != DUPLICATE for error in errors):
                raise
            changes = [changes[error["index"]] for error in errors]


def _burial_of(at: Collections, task_id: str) -> Burial | None:
    found = at.buried.find_one({"_id": task_id})
    return None if found is None else _burial(found)


def _burials(buried: Collection[Document], ids: Sequence[str]) -> dict[str, Burial]:
    return {
        found["_id"]: _burial(found)
        for some in documents.chunks(ids)
        for found in buried.find({"_id": {"$in": list(some)}})
    }


def _burial(document: Document) -> Burial:
    done = document.get("done")
    return Burial(
        task_id=document["_id"],
        buried_at=document["at"],
        done_at=None if done is None else documents.moment(done),
        fingerprints=frozenset(bytes(name) for name in document["names"]),
    )
