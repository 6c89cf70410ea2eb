"""Writes a task's document."""

from __future__ import annotations

from dataclasses import replace

from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError, WriteError

from rootcellar.records import ChordPart, TaskRecord
from rootcellar.stores.framing import kept_result
from rootcellar.stores.layouts import documents
from rootcellar.stores.mongodb.chords import NOTED, note_of
from rootcellar.stores.mongodb.driver import Document

#: the error code for a document whose id is stored already
DUPLICATE = 11000
#: the error code for setting a field in a value that is not a document
NO_DOCUMENT = 28
_DAMAGED: Document = {documents.OURS: {"$exists": True, "$not": {"$type": "object"}}}


def write(tasks: Collection[Document], record: TaskRecord, part: ChordPart | None) -> bool:
    """Store a state, with a note of its part, unless the stored state must stay; return whether it was stored."""
    update, on_insert = documents.task_update(record)
    overwritable: Document = {"_id": record.task_id, "status": {"$ne": "SUCCESS"}}
    if record.done_at is None:
        # the RETRY of a run is stored after the next run was sent, and may arrive after the end of that run
        is_no_later_end = {"retries": {"$not": {"$gt": record.retries or 0}}}
        overwritable["$or"] = [{"date_done": None}, is_no_later_end]
    change: Document = {"$set": update, "$setOnInsert": on_insert}
    if part is not None:
        # a SUCCESS stays, so the note needs no copy of its result: a document has at most 16 MB
        noted = part if record.state == "SUCCESS" else replace(part, result=kept_result(part, record))
        change["$push"] = {NOTED: note_of(noted)}
    while True:
        try:
            tasks.update_one(overwritable, change, upsert=True)
            return True
        except DuplicateKeyError:
            # a stored state must stay, or another process stored one between the search and the insertion
            if tasks.update_one(overwritable, change).matched_count:
                return True
            if tasks.find_one({"_id": record.task_id}, {"_id": 1}):
                return False
        except WriteError as exc:
            if exc.code != NO_DOCUMENT or not drop_damaged_subdocument(tasks, record.task_id):
                raise


def drop_damaged_subdocument(tasks: Collection[Document], task_id: str) -> bool:
    """Remove the subdocument of rootcellar if it was replaced by another value, in which no field can be set."""
    drop = {"$unset": {documents.OURS: ""}}
    return tasks.update_one({"_id": task_id, **_DAMAGED}, drop).matched_count == 1
