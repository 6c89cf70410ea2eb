"""Reads all tasks and groups of MongoDB, page by page in the order of their ids, and stores groups of another store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError

from rootcellar.errors import PayloadUnreadable
from rootcellar.records import FOREIGN, NO_DATE, GroupRecord, Payload, TaskRecord
from rootcellar.stores.fields import FieldReader, text_id
from rootcellar.stores.layouts import documents
from rootcellar.stores.mongodb.collections import Collections
from rootcellar.stores.mongodb.driver import Document
from rootcellar.stores.mongodb.mirroring import Run
from rootcellar.stores.mongodb.writing import DUPLICATE

#: about how many bytes of results a page has at most, so that a walk needs little memory
MAX_PAGE_BYTES = 16 << 20


class MongoStream:
    """The ability :class:`~rootcellar.stores.streaming.Streamed` of MongoDB. A cursor is the last id of a page.

    Args:
        run: calls a function with the collections.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def stream(self, cursor: str | None = None, limit: int = 1_000) -> tuple[Sequence[TaskRecord], str | None]:
        """See :class:`~rootcellar.stores.streaming.Streamed`. A page has about :data:`MAX_PAGE_BYTES` at most."""
        found, cursor = self._run(lambda at: _page(at.task, cursor, limit))
        return [documents.task_record(document) for document in found], cursor

    def stream_groups(self, cursor: str | None = None, limit: int = 1_000) -> tuple[Sequence[GroupRecord], str | None]:
        """See :class:`~rootcellar.stores.streaming.Streamed`. A group that is not JSON is returned as it is stored."""
        found, cursor = self._run(lambda at: _page(at.group, cursor, limit))
        return [_group(document) for document in found], cursor

    def copy_groups(self, groups: Sequence[GroupRecord], *, newer_wins: bool = False) -> int:
        """See :class:`~rootcellar.stores.streaming.Streamed`."""
        by_id = {group.group_id: group for group in groups}

        def work(at: Collections) -> int:
            count = _insert(at.group, list(by_id.values()))
            if newer_wins:
                for some in documents.chunks(list(by_id)):
                    for found in list(at.group.find({"_id": {"$in": list(some)}})):
                        count += _replace_older(at.group, found, by_id[found["_id"]])
            return count

        return self._run(work) if groups else 0

    def get_group(self, group_id: str) -> GroupRecord | None:
        """Return a saved group, as :meth:`stream_groups` does; ``None`` if there is none."""
        found = self._run(lambda at: at.group.find_one({"_id": group_id}))
        return None if found is None else _group(found)

    def count_roughly(self) -> int:
        """See :class:`~rootcellar.stores.streaming.Streamed`."""
        return self._run(lambda at: at.task.estimated_document_count())

    def open_chords(self) -> int:
        """See :class:`~rootcellar.stores.streaming.Streamed`."""
        return self._run(lambda at: at.chord.count_documents({"begun": True, "finished_at": None}))


def _page(collection: Collection[Document], cursor: str | None, limit: int) -> tuple[list[Document], str | None]:
    """Return some documents, and the last id if there may be others."""
    # an id that is not a text belongs to no task
    after: Document = {"$gte": ""} if cursor is None else {"$gt": cursor}
    found: list[Document] = []
    size = 0
    for document in collection.find({"_id": after}).sort("_id", 1).limit(limit):
        found.append(document)
        stored = document.get("result")
        size += len(stored) if isinstance(stored, (str, bytes)) else 0
        if len(found) == limit or size >= MAX_PAGE_BYTES:
            return found, str(document["_id"])
    return found, None


def _group(document: Document) -> GroupRecord:
    try:
        return documents.group_record(document)
    except PayloadUnreadable:
        stored = document.get("result")
        body = stored if isinstance(stored, bytes) else text_id(stored).encode("utf-8", "backslashreplace")
        done = FieldReader().moment("done_at", document.get("date_done")) or NO_DATE
        return GroupRecord(group_id=document["_id"], result=Payload(body, FOREIGN, "binary"), done_at=done)


def _insert(collection: Collection[Document], groups: Sequence[GroupRecord]) -> int:
    """Store groups where there is none; return how many."""
    insertions = [
        UpdateOne({"_id": group.group_id}, {"$setOnInsert": documents.group_document(group)}, upsert=True)
        for group in groups
    ]
    try:
        result: Any = collection.bulk_write(insertions, ordered=False).bulk_api_result
    except BulkWriteError as exc:
        result = exc.details
        # another process stored one of them between the search and the insertion
        if any(error["code"] != DUPLICATE for error in result["writeErrors"]):
            raise
    return len(result["upserted"])


def _replace_older(collection: Collection[Document], found: Document, group: GroupRecord) -> bool:
    """Store a group over an older one that has not changed since it was read; return whether it was stored."""
    if _group(found).done_at >= group.done_at:
        return False
    same = {name: found.get(name) for name in ("_id", "date_done", "result")}
    return collection.replace_one(same, documents.group_document(group)).matched_count == 1
