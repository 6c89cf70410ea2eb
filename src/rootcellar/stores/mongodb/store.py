"""Records in MongoDB, in Celery's own document layout. Each guarantee needs only single documents, no transactions."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, TypeVar, cast

from pymongo import UpdateOne, WriteConcern
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure

from rootcellar.records import (
    NO_DATE,
    ChordPart,
    ChordProgress,
    ChordRecord,
    GroupRecord,
    PartResult,
    Stored,
    TaskRecord,
)
from rootcellar.stores.base import DELETE_BATCH, Store, StoreOptions, TaskQuery
from rootcellar.stores.framing import kept_result
from rootcellar.stores.layouts import documents
from rootcellar.stores.measures import Activity, TableSize
from rootcellar.stores.mirroring import Mirrored
from rootcellar.stores.mongodb import driver
from rootcellar.stores.mongodb.chords import indexes
from rootcellar.stores.mongodb.collections import Collections
from rootcellar.stores.mongodb.driver import Document
from rootcellar.stores.mongodb.writing import DUPLICATE, write
from rootcellar.stores.pool import ConnectionPool
from rootcellar.stores.shared_values import SharesValues
from rootcellar.stores.streaming import Streamed
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

A = TypeVar("A")
T = TypeVar("T")

#: indexes: collection, field, options
_INDEXES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    # exactly as Celery creates it, which fails if another index has the name
    ("task", "date_done", {"background": True}),
    ("task", "expires_at", {"expireAfterSeconds": 0}),
    ("group", "expires_at", {"expireAfterSeconds": 0}),
)
#: the error codes for another index of the same name or on the same field
_INDEX_CONFLICTS = (85, 86)


class MongoStore(Store):
    """The store for ``rootcellar+mongodb://…`` and ``rootcellar+mongodb+srv://…``."""

    expires_by_itself = True

    def __init__(self, url: str, options: StoreOptions | None = None) -> None:
        super().__init__(url, options)
        self._settings = driver.read_settings(url, self.options)
        self._clients = driver.Clients(self._settings)
        self._are_indexes_known = False
        self._abilities: Mapping[type[Any], object] = {}

    @property
    def where(self) -> str:
        return self._settings.where

    def ability(self, protocol: type[A]) -> A | None:
        """Return an ability, or ``None``. Those that only a migration needs are imported when they are used."""
        if protocol in (Mirrored, Streamed, SharesValues):
            return self._migrating(protocol)
        return super().ability(protocol)

    def _migrating(self, protocol: type[A]) -> A:
        if protocol not in self._abilities:
            from rootcellar.stores.mongodb.mirroring import MongoMirror
            from rootcellar.stores.mongodb.shared_values import MongoSharedValues
            from rootcellar.stores.mongodb.streaming import MongoStream

            self._abilities = {
                Mirrored: MongoMirror(self._run, self.options.create_tables, self.where),
                Streamed: MongoStream(self._run),
                SharesValues: MongoSharedValues(self._run),
            }
        return cast("A", self._abilities[protocol])

    # -- tasks

    def put(
        self, record: TaskRecord, part: ChordPart | None = None, *, lease: float = 30.0, durable: bool = True
    ) -> Stored:
        def work(at: Collections) -> Stored:
            tasks = at.task if durable else at.task.with_options(write_concern=WriteConcern(w=1, j=False))
            written = write(tasks, record, part)
            if part is None:
                return Stored(written=written)
            progress = at.chords.count(replace(part, result=kept_result(part, record)), lease)
            at.chords.remove_note(part)
            return Stored(written=written, chord=progress)

        return self._run(work)

    def put_sent(self, records: Sequence[TaskRecord]) -> None:
        """See :class:`~rootcellar.stores.base.RecordsSent`."""
        insertions = [UpdateOne({"_id": one.task_id}, documents.insertion(one), upsert=True) for one in records]

        def work(at: Collections) -> None:
            try:
                at.task.bulk_write(insertions, ordered=False)
            except BulkWriteError as exc:
                # another process stored one of them between the search and the insertion
                if any(error["code"] != DUPLICATE for error in exc.details["writeErrors"]):
                    raise

        if insertions:
            self._run(work)

    def get(self, task_id: str) -> TaskRecord | None:
        if not documents.findable([task_id]):
            return None
        found = self._run(lambda at: at.task.find_one({"_id": task_id}))
        return None if found is None else documents.task_record(found)

    def get_many(self, task_ids: Iterable[str]) -> dict[str, TaskRecord]:
        ids = documents.findable(task_ids)

        def work(at: Collections) -> list[Document]:
            return [found for some in documents.chunks(ids) for found in at.task.find({"_id": {"$in": some}})]

        return {found["_id"]: documents.task_record(found) for found in self._run(work)}

    def delete(self, task_ids: Iterable[str]) -> int:
        ids = documents.findable(task_ids)

        def work(at: Collections) -> int:
            count = 0
            for some in documents.chunks(ids):
                at.chords.count_notes(some)
                count += at.task.delete_many({"_id": {"$in": some}}).deleted_count
            return count

        return self._run(work)

    def replace(self, old: TaskRecord, new: TaskRecord) -> bool:
        """See :class:`~rootcellar.stores.base.Replaceable`."""

        def work(at: Collections) -> bool:
            found = at.task.find_one({"_id": old.task_id})
            if found is None or documents.task_record(found) != old:
                return False
            same, update = documents.replacement(found, new)
            return at.task.update_one(same, {"$set": update}).matched_count == 1

        return self._run(work)

    def scan(self, after: str | None = None, limit: int = 1_000) -> Sequence[TaskRecord]:
        def work(at: Collections) -> list[Document]:
            return list(at.task.find({"_id": {"$gt": after or ""}}).sort("_id", 1).limit(limit))

        return [documents.task_record(found) for found in self._run(work)]

    # -- groups

    def put_group(self, group: GroupRecord) -> None:
        document = documents.group_document(group)

        def work(at: Collections) -> None:
            while True:
                try:
                    at.group.replace_one({"_id": group.group_id}, document, upsert=True)
                    return
                except DuplicateKeyError:
                    # another process stored it between the search and the insertion
                    continue

        self._run(work)

    def get_group(self, group_id: str) -> GroupRecord | None:
        if not documents.findable([group_id]):
            return None
        found = self._run(lambda at: at.group.find_one({"_id": group_id}))
        return None if found is None else documents.group_record(found)

    def delete_group(self, group_id: str) -> None:
        self._run(lambda at: at.group.delete_one({"_id": group_id}))

    # -- chords

    def begin_chord(self, chord: ChordRecord) -> None:
        self._run(lambda at: at.chords.begin(chord))

    def size_chord(self, group_id: str, size: int, *, relative: bool = False, key: str | None = None) -> None:
        self._run(lambda at: at.chords.size(group_id, size, relative, key))

    def count_part(self, part: ChordPart, *, lease: float = 30.0) -> ChordProgress:
        return self._run(lambda at: at.chords.count(part, lease))

    def claim_chord(self, group_id: str, claimant: str, *, lease: float = 30.0) -> bool:
        return self._run(lambda at: at.chords.claim(group_id, claimant, lease))

    def get_chord(self, group_id: str) -> ChordRecord | None:
        return self._run(lambda at: at.chords.get(group_id))

    def chord_parts(self, group_id: str) -> Sequence[PartResult]:
        return self._run(lambda at: at.chords.parts(group_id))

    def living_parts(self, task_ids: Sequence[str]) -> set[str]:
        """See :class:`~rootcellar.stores.base.KnowsParts`."""
        return self._run(lambda at: at.chords.living(task_ids))

    def finish_chord(self, group_id: str) -> None:
        self._run(lambda at: at.chords.finish(group_id))

    def orphaned_chords(self, owner: str, limit: int = 100) -> Sequence[str]:
        return self._run(lambda at: at.chords.orphans(owner, limit))

    # -- time and end

    def delete_expired(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        """Delete the expired documents that the server has not deleted yet. It deletes them once a minute."""
        expired = {"expires_at": {"$lt": now}}

        def some(collection: Collection[Document]) -> int:
            ids = [found["_id"] for found in collection.find(expired, {"_id": 1}).limit(limit)]
            pieces = documents.chunks(ids)
            return sum(collection.delete_many({"_id": {"$in": ids}, **expired}).deleted_count for ids in pieces)

        def work(at: Collections) -> int:
            some(at.chord)
            some(at.part)
            return some(at.task) + some(at.group)

        return self._run(work)

    def query(self, query: TaskQuery) -> Sequence[TaskRecord]:
        if not query.limit:
            return []
        unfinished, finished = _conditions(query)

        def work(at: Collections) -> list[Document]:
            found = list(at.task.find(unfinished).limit(query.limit))
            if len(found) < query.limit:
                found += at.task.find(finished).sort("date_done", -1).limit(query.limit - len(found))
            return found

        return [documents.task_record(found) for found in self._run(work)]

    def check(self) -> None:
        self._are_indexes_known = False
        self._run(lambda at: at.task.database.command("ping"))

    def close(self) -> None:
        self._clients.close()

    def pools(self) -> Sequence[ConnectionPool[Any]]:
        """See :class:`~rootcellar.stores.pool.Pooled`. The pool lends the right to use a connection of PyMongo's."""
        return self._clients.pools()

    # -- measures

    def activity(self) -> Activity:
        """See :class:`~rootcellar.stores.measures.Active`."""

        def work(at: Collections) -> Activity:
            by_state = at.task.aggregate(
                [{"$match": {"date_done": None}}, {"$group": {"_id": "$status", "count": {"$sum": 1}}}]
            )
            known_time = {"date_done": {"$gt": NO_DATE}}
            oldest = at.task.find_one(known_time, {"date_done": 1}, sort=[("date_done", 1)])
            return Activity(
                unfinished={str(found["_id"]): found["count"] for found in by_state},
                oldest=None if oldest is None else oldest["date_done"].replace(tzinfo=timezone.utc),
                chords_open=at.chord.count_documents({"begun": True, "finished_at": None}),
                chords_orphaned=None,
            )

        return self._run(work)

    def table_sizes(self) -> Sequence[TableSize]:
        """See :class:`~rootcellar.stores.measures.Sized`."""

        def work(at: Collections) -> list[TableSize]:
            return [_size(collection) for collection in (at.task, at.group, at.chord, at.part)]

        return self._run(work)

    # -- talking to the server

    def _run(self, work: Callable[[Collections], T]) -> T:
        with self._clients.client() as client, driver.translated(self.where):
            at = Collections(client, self._settings)
            if not self._are_indexes_known:
                self._make_indexes(at)
            return work(at)

    def _make_indexes(self, at: Collections) -> None:
        if self.options.create_tables:
            for collection, key, how in (*_INDEXES, *indexes()):
                try:
                    getattr(at, collection).create_index(key, **how)
                except OperationFailure as exc:
                    if exc.code not in _INDEX_CONFLICTS:
                        raise
                    logger.warning("%s: the index on %s is not as rootcellar makes it: %s", self.where, key, exc)
        self._are_indexes_known = True


def _size(collection: Collection[Document]) -> TableSize:
    found = collection.database.command("collStats", collection.name)
    return TableSize(
        table=collection.name,
        rows=int(found["count"]),
        bytes=int(found["storageSize"]),
        index_bytes=int(found["totalIndexSize"]),
    )


def _conditions(query: TaskQuery) -> tuple[Document, Document]:
    """Return the filters for unfinished and for finished tasks."""
    # an id that is not a text belongs to no task
    common: Document = {"_id": {"$gte": ""}}
    if query.states:
        common["status"] = {"$in": list(query.states)}
    for field, texts in (("name", query.names), ("queue", query.queues), ("worker", query.workers)):
        if texts:
            common[field] = {"$regex": "|".join(f"^{_pattern(text)}$" for text in texts), "$options": "s"}
    if query.id_prefix:
        common["_id"] = {"$regex": f"^{re.escape(query.id_prefix)}"}
    span: Document = {}
    if query.since is not None:
        span["$gte"] = query.since
    if query.until is not None:
        span["$lt"] = query.until
    unfinished: Document = {**common, "date_done": None}
    if span:
        unfinished["$or"] = [{"date_started": span}, {"date_started": None, "date_sent": span}]
    return unfinished, {**common, "date_done": {"$ne": None, **span}}


def _pattern(name: str) -> str:
    """Return the regular expression for a name with ``*``."""
    return ".*".join(re.escape(piece) for piece in name.split("*"))
