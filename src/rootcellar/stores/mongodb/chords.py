"""Chords as documents: one for the chord, and one for each part that was counted.

A stand-alone server has no transaction over several documents, so nothing here needs one. The documents of the parts
are the count. The key of a part makes it count once. A chord that is begun again gets a new ``run``, which no earlier
part has. The chord's document also has the number of its parts, so that they need not be counted each time. This number
is never too high, and too low only if a process died. So the parts themselves are counted when a part is delivered
again, and in the search for orphans.

A part that comes with a record takes three steps::

    the task's document gets the record and a note of the part (NOTED), in one write
      └──> the part gets a document of its own, with its result
             └──> the note is removed

If the process dies between two steps, the note stays. Three calls count it: the same part when it is delivered again,
:func:`ChordDocuments.count_notes` before the task is deleted, and each search for orphans.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from pymongo.collection import Collection, ReturnDocument
from pymongo.errors import DuplicateKeyError

from rootcellar.records import ChordPart, ChordProgress, ChordRecord, PartResult
from rootcellar.stores.fields import FAILURES, FieldReader, damaged, text_id
from rootcellar.stores.framing import claimant, frame, unframe_loosely
from rootcellar.stores.layouts import documents
from rootcellar.stores.mongodb.driver import Document
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

#: the field of a task's document with the notes of parts that are not counted yet
NOTED = f"{documents.OURS}.parts"
#: seconds for which a finished chord is kept, to refuse late parts
REMEMBERED = 86_400
#: the most tasks whose notes one search for orphans counts
_MAX_NOTES = 500

#: milliseconds since 1970, by the server's clock
_NOW = {"$toLong": "$$NOW"}
_IS_UNCLAIMED = {"$expr": {"$lt": ["$claimed_until", _NOW]}}


class ChordDocuments:
    """The chords of a store.

    Args:
        chords, parts: the collections of chords and parts.
        tasks: the collection of tasks, which has notes and results.
    """

    def __init__(self, chords: Collection[Document], parts: Collection[Document], tasks: Collection[Document]) -> None:
        self._chords = chords
        self._parts = parts
        self._tasks = tasks

    def begin(self, chord: ChordRecord) -> None:
        """See :meth:`Store.begin_chord`."""
        fresh = _new_chord() | {
            "begun": True,
            "body": frame(chord.body) if chord.body else None,
            "header": frame(chord.header) if chord.header else None,
            "expires_at": chord.expires_at,
            "expiry": _microseconds(chord.expires_at),
        }
        self._tasks.update_many({f"{NOTED}.group_id": chord.group_id}, {"$pull": {NOTED: {"group_id": chord.group_id}}})
        _retry_upsert(lambda: self._chords.replace_one({"_id": chord.group_id}, fresh, upsert=True))
        self._parts.delete_many({"group_id": chord.group_id, "run": {"$ne": fresh["run"]}})

    def size(self, group_id: str, size: int, relative: bool, key: str | None) -> None:
        """See :meth:`Store.size_chord`."""
        if not relative:
            self._upsert(group_id, {"size": size})
            return
        self._upsert(group_id, {})
        is_new: Document = {"_id": group_id}
        growth: Document = {"$inc": {"extra": size}}
        if key is not None:
            is_new["grown"] = {"$ne": key}
            growth["$push"] = {"grown": key}
        self._chords.update_one(is_new, growth)

    def count(self, part: ChordPart, lease: float) -> ChordProgress:
        """See :meth:`Store.count_part`."""
        chord, is_new = self._add_part(part)
        if chord["finished_at"] is not None:
            return ChordProgress(size=_size(chord), counted=chord["counted"], claimed=False, finished=True)
        if is_new:
            noted = self._increment_count(chord)
            if noted is None:
                # the chord was finished or begun again since
                return self.count(part, lease)
            chord = noted
        counted = chord["counted"] if is_new else self._counted(chord)
        size = _size(chord)
        is_complete = size is not None and counted >= size
        claimed = is_complete and self._claim(chord, claimant(part), lease)
        return ChordProgress(size=size, counted=counted, claimed=claimed, finished=False)

    def claim(self, group_id: str, claimant: str, lease: float) -> bool:
        """See :meth:`Store.claim_chord`."""
        chord = self._chords.find_one({"_id": group_id, "finished_at": None})
        return chord is not None and self._is_complete(chord) and self._claim(chord, claimant, lease)

    def get(self, group_id: str) -> ChordRecord | None:
        """See :meth:`Store.get_chord`."""
        chord = self._chords.find_one({"_id": group_id, "begun": True, "finished_at": None})
        if chord is None:
            return None
        return ChordRecord(
            group_id=group_id,
            body=unframe_loosely(chord["body"]) if chord.get("body") else None,
            header=unframe_loosely(chord["header"]) if chord.get("header") else None,
            expires_at=documents.moment(chord.get("expiry")),
        )

    def parts(self, group_id: str) -> Sequence[PartResult]:
        """See :meth:`Store.chord_parts`."""
        chord = self._chords.find_one({"_id": group_id}, {"run": 1})
        if chord is None:
            return []
        found = sorted(map(_read_part, self._parts.find({"run": chord["run"]})), key=_place_in_header)
        without_result = [part.task_id for part in found if part.result is None]
        results = {}
        for ids in documents.chunks(documents.findable(without_result)):
            for task in self._tasks.find({"_id": {"$in": ids}}):
                results[task["_id"]] = documents.task_record(task).result
        return [part if part.result is not None else replace(part, result=results.get(part.task_id)) for part in found]

    def living(self, task_ids: Sequence[str]) -> set[str]:
        """See :class:`~rootcellar.stores.base.KnowsParts`. The parts of a finished chord are deleted."""
        found: set[str] = set()
        for ids in documents.chunks(documents.findable(task_ids)):
            found.update(self._parts.distinct("task_id", {"task_id": {"$in": ids}}))
        return found

    def finish(self, group_id: str) -> None:
        """See :meth:`Store.finish_chord`."""
        chord = self._chords.find_one({"_id": group_id, "finished_at": None})
        if chord is None:
            return
        end = {
            "finished_at": "$$NOW",
            "expires_at": {"$add": ["$$NOW", REMEMBERED * 1_000]},
            "counted": self._counted(chord),
            "body": None,
            "header": None,
        }
        self._chords.update_one({"_id": group_id, "run": chord["run"], "finished_at": None}, [{"$set": end}])
        self._parts.delete_many({"run": chord["run"]})

    def orphans(self, owner: str, limit: int) -> Sequence[str]:
        """See :meth:`Store.orphaned_chords`. The parts that have a note and were not counted are counted first."""
        for task in self._tasks.find({f"{NOTED}.owner": owner}).limit(_MAX_NOTES):
            self._count_notes_of(task)
        found: list[str] = []
        for chord in self._chords.find({"owner": owner, "finished_at": None, "size": {"$ne": None}, **_IS_UNCLAIMED}):
            try:
                is_complete = self._is_complete(chord)
            except FAILURES as exc:
                logger.error("Chord %a is damaged and cannot be finished: %s", chord["_id"], exc)
                continue
            if is_complete:
                found.append(chord["_id"])
            if len(found) >= limit:
                break
        return found

    def count_notes(self, task_ids: Sequence[str]) -> None:
        """Count the parts in the notes of tasks that will be deleted."""
        for task in self._tasks.find({"_id": {"$in": task_ids}, f"{NOTED}.0": {"$exists": True}}):
            self._count_notes_of(task)

    def remove_note(self, part: ChordPart) -> None:
        """Remove the note of a part that was counted."""
        is_it = {"group_id": part.group_id, "group_index": part.group_index}
        self._tasks.update_one({"_id": part.task_id}, {"$pull": {NOTED: is_it}})

    # -- steps

    def _count_notes_of(self, task: Mapping[str, Any]) -> None:
        for noted in task[documents.OURS]["parts"]:
            try:
                part = _read_note(task, noted)
            except FAILURES as exc:
                logger.error("The note of a chord's part in task %a is damaged and not counted: %s", task["_id"], exc)
                continue
            chord, is_new = self._add_part(part)
            if is_new:
                self._increment_count(chord)
            self.remove_note(part)

    def _add_part(self, part: ChordPart) -> tuple[Document, bool]:
        """Store a part, once; return its chord as it was before, and whether the part is new."""
        unknown = {"expires_at": part.expires_at, "expiry": _microseconds(part.expires_at)}
        chord = self._upsert(part.group_id, {"owner": part.owner}, unknown)
        is_new = False
        if chord["finished_at"] is None:
            chord = self._postpone_expiry(chord, part)
            document = note_of(part) | {
                "_id": f"{chord['run']}/{part.group_index}/{part.task_id}",
                "run": chord["run"],
                "task_id": part.task_id,
                "expires_at": _end_of_part(chord, part),
            }
            with contextlib.suppress(DuplicateKeyError):
                self._parts.insert_one(document)
                is_new = True
        return chord, is_new

    def _postpone_expiry(self, chord: Document, part: ChordPart) -> Document:
        """Set the expiry of a chord and its parts to that of a part, if that is later; return the chord.

        Otherwise each part of a long chord would change all earlier parts. So this is done only if less than half of
        the time is left that the part asks for.
        """
        expires = documents.moment(chord["expiry"])
        if expires is None or part.expires_at is None or expires >= part.expires_at:
            return chord
        now = datetime.now(timezone.utc)
        if expires - now > (part.expires_at - now) / 2:
            return chord
        later = {"expires_at": part.expires_at, "expiry": documents.microseconds(part.expires_at)}
        # the parts first: if the process dies between the two steps, no part expires before its chord
        self._parts.update_many({"run": chord["run"]}, {"$max": {"expires_at": part.expires_at}})
        is_it = {"_id": chord["_id"], "run": chord["run"], "finished_at": None, "expiry": {"$lt": later["expiry"]}}
        self._chords.update_one(is_it, {"$set": later})
        return chord | later

    def _increment_count(self, chord: Mapping[str, Any]) -> Document | None:
        """Add one to the number in the chord's document; it is too low if a process died before this step."""
        is_it = {"_id": chord["_id"], "run": chord["run"], "finished_at": None}
        return self._chords.find_one_and_update(is_it, {"$inc": {"counted": 1}}, return_document=ReturnDocument.AFTER)

    def _upsert(self, group_id: str, change: Document, unknown: Mapping[str, Any] | None = None) -> Document:
        """Change a chord, or create it, and return it."""
        fresh = {name: value for name, value in {**_new_chord(), **(unknown or {})}.items() if name not in change}
        update: Document = {"$setOnInsert": fresh} | ({"$set": change} if change else {})
        found: Document = _retry_upsert(
            lambda: self._chords.find_one_and_update(
                {"_id": group_id}, update, upsert=True, return_document=ReturnDocument.AFTER
            )
        )
        return found

    def _counted(self, chord: Mapping[str, Any]) -> int:
        return self._parts.count_documents({"run": chord["run"]})

    def _is_complete(self, chord: Mapping[str, Any]) -> bool:
        size = _size(chord)
        return size is not None and self._counted(chord) >= size

    def _claim(self, chord: Mapping[str, Any], claimant: str, lease: float) -> bool:
        """Claim a chord that was found complete, unless parts were added since, or it has a valid claim."""
        unchanged = {name: chord[name] for name in ("_id", "run", "size", "extra")}
        free = {"finished_at": None, "$or": [{"claimant": claimant}, _IS_UNCLAIMED]}
        until = {"$add": [_NOW, max(1, int(lease * 1_000))]}
        claim = [{"$set": {"claimant": {"$literal": claimant}, "claimed_until": until}}]
        return self._chords.update_one({**unchanged, **free}, claim).matched_count == 1


def note_of(part: ChordPart) -> Document:
    """Return the note of a part."""
    return {
        "group_id": part.group_id,
        "group_index": part.group_index,
        "state": part.state,
        "result": frame(part.result) if part.result else None,
        "owner": part.owner,
        "expires_at": part.expires_at,
        "delivery": part.delivery,
    }


def _read_note(task: Mapping[str, Any], noted: Mapping[str, Any]) -> ChordPart:
    """Return the part in a note. If the note has no result, the part has that of the task's document."""
    fields = {name: noted[name] for name in ("group_id", "group_index", "state", "owner", "expires_at", "delivery")}
    fields["expires_at"] = FieldReader().moment("expires_at", fields["expires_at"])
    if not all(isinstance(fields[name], str) for name in ("group_id", "state", "owner", "delivery")):
        raise TypeError("a field of it has another type")
    result = unframe_loosely(noted["result"]) if noted["result"] else documents.task_record(task).result
    return ChordPart(task_id=task["_id"], result=result, **fields)


def _end_of_part(chord: Mapping[str, Any], part: ChordPart) -> datetime | None:
    """Return when a part expires: not before its chord, also if another part postpones that at the same moment."""
    expires = documents.moment(chord["expiry"])
    if expires is None or part.expires_at is None:
        return expires
    return max(expires, part.expires_at)


def _read_part(part: Mapping[str, Any]) -> PartResult:
    reader = FieldReader()
    result = part.get("result")
    read = PartResult(
        task_id=text_id(part.get("task_id")),
        group_index=reader.number("group_index", part.get("group_index")),
        state=reader.state(part.get("state")),
        result=None if result is None else unframe_loosely(result),
    )
    return replace(read, result=damaged(result)) if reader.damage else read


def _microseconds(moment: datetime | None) -> int | None:
    return None if moment is None else documents.microseconds(moment)


def _new_chord() -> Document:
    """Return the document of a new chord, without size and parts."""
    return {
        "run": uuid.uuid4().hex,
        "begun": False,
        "body": None,
        "header": None,
        "size": None,
        "extra": 0,
        "grown": [],
        "counted": 0,
        "owner": None,
        "claimant": None,
        "claimed_until": None,
        "finished_at": None,
        "expires_at": None,
        "expiry": None,
    }


def _size(chord: Mapping[str, Any]) -> int | None:
    return None if chord["size"] is None else chord["size"] + chord["extra"]


def _place_in_header(part: PartResult) -> tuple[bool, int, str]:
    return part.group_index is None, part.group_index or 0, part.task_id


def _retry_upsert(upsert: Any) -> Any:
    """Repeat an upsert by ``_id`` if another process inserted the document between its search and its insertion."""
    while True:
        try:
            return upsert()
        except DuplicateKeyError:
            continue


def indexes() -> Iterable[tuple[str, str, dict[str, Any]]]:
    """Yield the indexes that chords need: collection, field, options."""
    yield "task", f"{NOTED}.owner", {"sparse": True}
    yield "task", f"{NOTED}.group_id", {"sparse": True}
    yield "chord", "owner", {}
    yield "chord", "expires_at", {"expireAfterSeconds": 0}
    yield "part", "run", {}
    yield "part", "group_id", {}
    yield "part", "expires_at", {"expireAfterSeconds": 0}
