"""Encrypts or signs all stored results again with the first key, while workers run.

A record is replaced only if it has not changed since it was read, so no newer record is overwritten. Values that are
encrypted or signed with the first key already are skipped. So after an interruption, a new run must only read the
records that are done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from rootcellar.errors import (
    AbilityMissing,
    BlobStoreUnknown,
    ConfigurationError,
    KeyMissing,
    PayloadError,
    PayloadUnreadable,
    RecordRefused,
    RootcellarError,
)
from rootcellar.payloads import SEALED_FIELDS, TRACEBACK, Codec
from rootcellar.payloads.blobs import REFERENCE
from rootcellar.payloads.blobs.references import blob_of, key_of
from rootcellar.payloads.encryption import sealed_text
from rootcellar.records import Payload, TaskRecord
from rootcellar.stores.base import Replaceable, Store
from rootcellar.stores.fields import damaged_fields

#: how many times a record is read again if other processes store it at the same time
_MAX_TRIES = 10


@dataclass(slots=True)
class RekeyProgress:
    """The progress and the result.

    Attributes:
        records_read: records that were read.
        changed: records that were encrypted or signed again, or, with ``dry_run``, that would be.
        unprotected: records that were skipped although a part of them is neither encrypted nor signed.
        left: records that could not be opened completely.
        keys_missing: how many records need a missing key, by its id.
        last_id: the id of the last record that was processed.
        problems: the first few errors.
    """

    records_read: int = 0
    changed: int = 0
    unprotected: int = 0
    left: int = 0
    keys_missing: Counter[str] = field(default_factory=Counter)
    last_id: str | None = None
    problems: list[str] = field(default_factory=list)


class Rekeyer:
    """Encrypts or signs the records of a store again.

    Args:
        store: the store.
        codec: the codec with the keys, the newest first.
        unsealed: whether to include values that are neither encrypted nor signed.
        dry_run: whether to count only.
        batch: how many records are read at a time.

    Raises:
        ConfigurationError: there is no key.
        AbilityMissing: the store cannot replace records.
    """

    def __init__(
        self, store: Store, codec: Codec, *, unsealed: bool = False, dry_run: bool = False, batch: int = 500
    ) -> None:
        if not codec.sealer.is_on:
            raise ConfigurationError(
                "there is no key to encrypt or sign with",
                where="ROOTCELLAR_ENCRYPTION_KEYS",
                remedy="set the new key and after it the old ones; `rootcellar key` makes one",
            )
        replaceable = store.ability(Replaceable)
        if replaceable is None:
            raise AbilityMissing(
                "this store cannot replace records", where=store.where, remedy="let the old results expire"
            )
        self._store = store
        self._replaceable: Replaceable = replaceable
        self._codec = codec
        self._unsealed = unsealed
        self._dry_run = dry_run
        self._batch = batch
        self.done = RekeyProgress()

    def run(
        self, after: str | None = None, on_progress: Callable[[RekeyProgress], object] = lambda done: None
    ) -> RekeyProgress:
        """Process every record after the id ``after``. Call ``on_progress`` after each batch."""
        while records := self._store.scan(after, self._batch):
            for record in records:
                self._rekey_record(record)
                self.done.records_read += 1
                after = self.done.last_id = record.task_id
            on_progress(self.done)
        return self.done

    def _rekey_record(self, record: TaskRecord) -> None:
        current: TaskRecord | None = record
        for _ in range(_MAX_TRIES):
            if current is None:
                return
            try:
                changes = self._changes(current)
                if not changes or self._dry_run or self._replace(current, replace(current, **changes)):
                    self.done.changed += bool(changes)
                    self.done.unprotected += self._is_unprotected(current)
                    return
            except (PayloadError, BlobStoreUnknown, RecordRefused) as exc:
                self._record_failure(exc)
                return
            # another process stored it meanwhile, or the answer was lost
            current = self._store.get(record.task_id)
        self._record_failure(PayloadError(f"task {record.task_id} was stored by other processes again and again"))

    def _is_unprotected(self, record: TaskRecord) -> bool:
        """Return True if a part of a record stays neither encrypted nor signed."""
        if self._unsealed:
            return False
        payloads = [payload for name in SEALED_FIELDS if (payload := getattr(record, name)) is not None]
        ids = [key_of(payload) if payload.content_type == REFERENCE else payload.key_id for payload in payloads]
        if record.traceback is not None:
            ids.append(sealed_text(record.traceback, record.task_id, TRACEBACK).key_id)
        return not all(ids)

    def _replace(self, old: TaskRecord, new: TaskRecord) -> bool:
        """Replace a record, and delete its old or its new blob, whichever has no record now."""
        replaced = self._replaceable.replace(old, new)
        spiller = self._codec.spiller
        if spiller is not None and blob_of(old) != blob_of(new):
            # if the answer was lost, the record may be replaced or not: then both blobs are left to the sweep
            if replaced:
                spiller.delete(old, self._store)
            elif blob_of(self._store.get(old.task_id)) != blob_of(new):
                spiller.delete(new, self._store)
        return replaced

    def _changes(self, record: TaskRecord) -> dict[str, Any]:
        """Return the fields that must change.

        Raises:
            PayloadError: one of them cannot be opened.
        """
        if fields := damaged_fields(record):
            raise PayloadUnreadable(
                f"the {', '.join(fields)} of task {record.task_id!a} cannot be read, so the task is left as it is",
                remedy="restore the record from a backup, or forget the task",
            )
        changes: dict[str, Any] = {}
        sealer, task_id = self._codec.sealer, record.task_id
        for name in SEALED_FIELDS:
            payload = getattr(record, name)
            if payload is not None and payload.content_type == REFERENCE:
                if self._is_due(key_of(payload)):
                    changes[name] = payload if self._dry_run else self._spill_again(payload, task_id, name)
                continue
            if payload is not None and self._is_due(payload.key_id):
                opened = sealer.open(payload, task_id, name) if payload.key_id else payload
                changes[name] = sealer.seal(opened, task_id, name)
        if record.traceback is not None:
            key_id = sealed_text(record.traceback, task_id, TRACEBACK).key_id
            if self._is_due(key_id):
                text = sealer.open_text(record.traceback, task_id, TRACEBACK, accept_unsealed=True)
                changes["traceback"] = sealer.seal_text(text, task_id, TRACEBACK)
        return changes

    def _spill_again(self, reference: Payload, task_id: str, field: str) -> Payload:
        """Return the reference to a new blob that has the newest key."""
        kept, sealer = self._codec.fetch(reference, task_id), self._codec.sealer
        opened = sealer.open(kept, task_id, field) if kept.key_id else kept
        assert self._codec.spiller is not None
        return self._codec.spiller.spill(sealer.seal(opened, task_id, field), task_id)

    def _is_due(self, key_id: str) -> bool:
        if not key_id:
            return self._unsealed
        newest = self._codec.sealer.writes_as
        return not key_id.startswith(newest) if newest.endswith(":") else key_id != newest

    def _record_failure(self, exc: RootcellarError) -> None:
        self.done.left += 1
        if isinstance(exc, KeyMissing):
            self.done.keys_missing[exc.key_id] += 1
        if len(self.done.problems) < 5:
            self.done.problems.append(str(exc))
