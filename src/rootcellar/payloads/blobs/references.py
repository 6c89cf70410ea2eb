"""Stores large payloads in blobs, and references to them in records.

A blob is written before its record, and deleted after it. So a record never refers to a missing blob, but a process
that dies may leave a blob without a record. The sweep deletes such blobs::

    written ──> has a record ──> the record was deleted or replaced ──> deleted by the caller
       |                                      |
       └── the record was not stored ─────────┴── the caller died ───> deleted by the sweep, after the grace time
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import Any
from urllib.parse import quote, unquote

from rootcellar.errors import PayloadUnreadable, RecordRefused, StoreError
from rootcellar.payloads.blobs.storage import Blobs
from rootcellar.records import Payload, Stored, TaskRecord
from rootcellar.stores.base import KnowsParts, Store
from rootcellar.stores.framing import frame, unframe
from rootcellar.stores.journal import WritesBehind

#: content type of a reference
REFERENCE = "application/vnd.rootcellar.blob"
_NAME = re.compile(r"[0-9a-f]{2}/[A-Za-z0-9_.~%-]{1,200}\.[0-9a-f]{16}")
_MAX_ID_LENGTH = 190
_SWEEP_BATCH = 1_000
_MAX_UNFINISHED = 10_000


class BlobSpiller:
    """Moves ("spills") payloads to blobs, and reads them back.

    Args:
        blobs: the blob store.
    """

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs
        #: unfinished tasks of this process that have a blob
        self._unfinished: set[str] = set()

    def spill(self, payload: Payload, task_id: str) -> Payload:
        """Write a payload to a blob, and return the reference to it.

        Raises:
            RecordRefused: the task's id is too long for the name of a blob.
            StoreError: the blob cannot be written.
        """
        name = _new_name(task_id)
        body = frame(payload)
        self.blobs.put(name, body)
        description = {
            "blob": name,
            "size": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
            "key_id": payload.key_id,
        }
        return Payload(json.dumps(description).encode(), REFERENCE)

    def fetch(self, reference: Payload, task_id: str) -> Payload:
        """Return the payload to which a reference refers.

        Raises:
            PayloadUnreadable: the blob is missing, was altered, or belongs to another task.
            StoreError: the blob store cannot be reached.
        """
        description = _read_reference(reference)
        if _task_of(description["blob"]) != task_id:
            raise _unreadable(task_id, "the reference is to a blob of another task")
        body = self.blobs.get(description["blob"])
        if body is None:
            raise _unreadable(task_id, f"the blob {description['blob']} is not in {self.blobs.where}")
        if len(body) != description["size"] or hashlib.sha256(body).hexdigest() != description["sha256"]:
            raise _unreadable(task_id, f"the blob {description['blob']} was altered")
        return unframe(body)

    def put(self, store: Store, record: TaskRecord, put: Callable[[], Stored], *, is_repeated: bool) -> Stored:
        """Store a record, and delete the blob of the replaced record, or its own blob if the record was refused.

        Args:
            store: the store.
            record: the record.
            put: stores the record.
            is_repeated: whether the task may have run before.
        """
        own = blob_of(record)
        is_known = record.task_id in self._unfinished
        earlier = _replaceable_blob(store.get(record.task_id)) if is_repeated or is_known else None
        stored = put()
        if stored.written:
            if record.done_at is None and own is not None and len(self._unfinished) < _MAX_UNFINISHED:
                self._unfinished.add(record.task_id)
            elif record.done_at is not None:
                self._unfinished.discard(record.task_id)
            self._drop(earlier if earlier != own else None)
        elif own is not None and stored.chord is None and blob_of(store.get(record.task_id)) != own:
            # an earlier SUCCESS stays, and no record has this blob: no earlier try stored it, and no chord keeps it
            self._drop(own)
        return stored

    def _drop(self, name: str | None) -> None:
        """Try to delete a blob. If it fails, the sweep will delete it."""
        if name is not None:
            with suppress(StoreError):
                self.blobs.delete(name)

    def delete(self, record: TaskRecord | None, store: Store) -> None:
        """Delete the blob of a record, if it has one. The sweep deletes the blobs of parts of unfinished chords.

        Args:
            record: the old record, which was deleted or replaced.
            store: the store with the chords.
        """
        name = blob_of(record)
        if record is None or name is None:
            return
        if record.group_id is None or store.get_chord(record.group_id) is None:
            self.blobs.delete(name)

    def sweep(self, store: Store, grace: float, go_on: Callable[[], object] = lambda: None) -> int:
        """Delete the blobs without a record. Return how many.

        A part of a chord that was not finished keeps its blob, also if its record has expired.

        Args:
            store: the store with all records that refer to these blobs.
            grace: seconds for which a blob without a record is kept, because its record may not be stored yet, or a
                part of a chord may not be counted yet.
            go_on: called before each 1,000 blobs; an error that it raises ends the sweep.
        """
        if (moving := store.ability(WritesBehind)) is not None:
            # until all is moved, a state in the fast store may hide an earlier SUCCESS in the durable one
            moving.drain_all()
        count = 0
        names = self.blobs.names(grace)
        while some := list(islice(names, _SWEEP_BATCH)):
            go_on()
            owners = {name: _task_of(name) for name in some if _NAME.fullmatch(name)}
            records = store.get_many(set(owners.values()))
            orphans = {name: task_id for name, task_id in owners.items() if blob_of(records.get(task_id)) != name}
            needed = _living_parts(store, set(orphans.values()))
            for name, task_id in orphans.items():
                if task_id not in needed:
                    self.blobs.delete(name)
                    count += 1
        return count


def _living_parts(store: Store, task_ids: set[str]) -> set[str]:
    """Return those of these tasks whose results a chord needs; none if the store cannot say it."""
    able = store.ability(KnowsParts) if task_ids else None
    return set() if able is None else able.living_parts(sorted(task_ids))


def blob_of(record: TaskRecord | None) -> str | None:
    """Return the name of the blob with a record's result."""
    if record is None or record.result is None or record.result.content_type != REFERENCE:
        return None
    try:
        return str(_read_reference(record.result)["blob"])
    except PayloadUnreadable:
        return None


def _replaceable_blob(record: TaskRecord | None) -> str | None:
    """Return the blob of a record that may be replaced. A SUCCESS stays, even if ``put`` does not report it yet."""
    return None if record is None or record.state == "SUCCESS" else blob_of(record)


def key_of(reference: Payload) -> str:
    """Return the ``key_id`` of the payload to which a reference refers."""
    return str(_read_reference(reference)["key_id"])


def size_of(reference: Payload) -> int:
    """Return the size of a blob in bytes; 0 for a damaged reference."""
    try:
        return int(_read_reference(reference)["size"])
    except (PayloadUnreadable, ValueError, TypeError):
        return 0


def size_of_result(result: Payload) -> int:
    """Return the bytes of a serialized result, also if it is in a blob."""
    return len(result.body) if result.content_type != REFERENCE else size_of(result)


def _new_name(task_id: str) -> str:
    quoted = quote(task_id, safe="", errors="surrogatepass")
    if len(quoted) > _MAX_ID_LENGTH:
        raise RecordRefused(
            f"the id of task {task_id[:40]!a}… is too long for the name of a blob", remedy="use a UUID, as Celery does"
        )
    unique = secrets.token_hex(8)
    return f"{unique[:2]}/{quoted}.{unique}"


def _task_of(name: str) -> str:
    return unquote(name.partition("/")[2].rpartition(".")[0], errors="surrogatepass")


def _read_reference(reference: Payload) -> dict[str, Any]:
    try:
        description = json.loads(reference.body)
        if set(description) == {"blob", "size", "sha256", "key_id"} and _NAME.fullmatch(description["blob"]):
            return dict(description)
    except (ValueError, TypeError):
        pass
    raise PayloadUnreadable("a stored reference to a blob is damaged", remedy="restore the record from a backup")


def _unreadable(task_id: str, why: str) -> PayloadUnreadable:
    return PayloadUnreadable(
        f"the result of task {task_id} cannot be read: {why}",
        where="ROOTCELLAR_BLOB_URL",
        remedy="see whether all workers and clients name the same blob store",
    )
