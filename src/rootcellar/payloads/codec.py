"""Converts a value to a payload and back. The steps: redact, serialize, limit, compress, encrypt or sign."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from rootcellar.errors import BlobStoreUnknown, KeyMissing, PayloadError, PayloadUnreadable
from rootcellar.payloads.blobs import REFERENCE, BlobSpiller
from rootcellar.payloads.compression import Compressor
from rootcellar.payloads.encryption import Sealer
from rootcellar.payloads.errors import NotEncodable
from rootcellar.payloads.pickles import PICKLE, read_old_pickle
from rootcellar.payloads.redaction.patterns import NOTHING
from rootcellar.payloads.redaction.per_task import Call, Redactor
from rootcellar.payloads.redaction.per_task import is_failure as looks_like_failure
from rootcellar.payloads.serializers import content_type_of, deserialise, serialise
from rootcellar.payloads.size_limits import SPILL, TRUNCATE, Limit, cut_middle
from rootcellar.payloads.typed import Reader
from rootcellar.records import DAMAGED, FOREIGN, Payload, TaskRecord

#: the names of the fields that are encoded; an encrypted value is bound to its field
RESULT, ARGS, KWARGS, STAMPS, TRACEBACK = "result", "args", "kwargs", "stamps", "traceback"
CHORD_BODY = "chord body"
#: the fields of a record that are encrypted or signed payloads; ``children`` is not, because it has only ids
SEALED_FIELDS = (RESULT, ARGS, KWARGS, STAMPS)


#: the first bytes of a pickle of protocol 2 and later
_PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
NO_CALL = Call()
NO_LIMIT = Limit()


class Codec:
    """Converts values to payloads and back, according to the settings. Safe to use from any thread.

    Args:
        serializer: the name of the default serializer.
        compressor: compresses payloads, and limits their decompressed size; ``None`` for no compression.
        accept: the content types that may be read; ``None`` for those that kombu trusts.
        sealer: encrypts or signs; ``None`` for neither.
        old_pickles: whether pickles of plain data, from Celery before 5.7, are read even if pickle itself is not
            accepted.
        reader: reads typed JSON; ``None`` for a reader that accepts any class that is loaded.
        redactor: masks secrets; ``None`` for no redaction.
        limit: how large a result may be; ``None`` for no limit.
        spiller: stores large results in blobs; ``None`` without a blob store.
    """

    def __init__(
        self,
        *,
        serializer: str = "json",
        compressor: Compressor | None = None,
        accept: Collection[str] | None = None,
        sealer: Sealer | None = None,
        old_pickles: bool = False,
        reader: Reader | None = None,
        redactor: Redactor | None = None,
        limit: Limit | None = None,
        spiller: BlobSpiller | None = None,
    ) -> None:
        content_type_of(serializer)
        self.serializer = serializer
        self.compressor = compressor or Compressor()
        self.accept = accept
        self.sealer = sealer or Sealer()
        self.reader = reader or Reader()
        self.redactor = redactor or Redactor(NOTHING)
        self.limit = limit or Limit()
        self.spiller = spiller
        self.old_pickles = old_pickles

    def encode(
        self,
        value: Any,
        *,
        task_id: str,
        field: str = RESULT,
        call: Call = NO_CALL,
        serializer: str | None = None,
        is_failure: bool = False,
        is_limited: bool = True,
        cut_to: int | None = None,
    ) -> Payload:
        """Encode a value of a task.

        Args:
            value: the task's result or arguments.
            task_id: the task, or for a chord's body the group, to which the value belongs.
            field: the field, such as :data:`RESULT`.
            call: the task and its arguments.
            is_failure: whether the value may be an exception. A returned value can look like one.
            is_limited: whether the limit on the size of a result applies.
            cut_to: the size in bytes to which the value is cut, unless a task returned it; ``None`` for no limit.
            serializer: the name of a serializer; ``None`` for the task's own if the value is its result, else for that
                of the settings.

        Raises:
            NotEncodable: the serializer cannot encode the value, or it is too large.
            StoreError: it is too large for a record, and the blob store cannot be reached.
        """
        serializer = serializer or serializer_of(call, field)
        limit = self.limit.of(call.task) if is_limited else NO_LIMIT
        failed = is_failure and looks_like_failure(value)
        if cut_to is not None and (field != RESULT or failed):
            limit = Limit(min(cut_to, limit.max_size or cut_to), TRUNCATE)

        def serialised(value: Any) -> Payload:
            payload = self._serialised(value, field, serializer, failed)
            if failed and limit.exceeded_by(payload):
                return self._serialised(limit.cut_failure(value), field, serializer, failed)
            return payload

        if field == CHORD_BODY:
            # the body is called later, so it must stay complete
            return self._sealed(serialised(value), task_id, field)
        value = self.redactor.arguments(value, call) if field == ARGS else value
        payload = self.redactor.encoded(value, call, serialised, is_result=field == RESULT, is_failure=failed)
        if not limit.exceeded_by(payload) or failed:
            return self._sealed(payload, task_id, field)
        return self._shortened(payload, limit, task_id, field, call)

    def _shortened(self, payload: Payload, limit: Limit, task_id: str, field: str, call: Call) -> Payload:
        """Return the payload to store instead of an oversized value: refused, truncated or in a blob.

        Oversized arguments are always truncated, never refused.
        """
        if field == RESULT and limit.too_large != TRUNCATE:
            name = getattr(call.task, "name", None) or task_id
            if limit.too_large != SPILL:
                raise limit.refusal(payload, name)
            if self.spiller is None:
                raise limit.refusal(payload, name, ", and ROOTCELLAR_BLOB_URL is not set")
            return self.spiller.spill(self._sealed(payload, task_id, field), task_id)
        return self._sealed(serialise(limit.cut(payload), "json"), task_id, field)

    def _sealed(self, payload: Payload, task_id: str, field: str) -> Payload:
        return self.sealer.seal(self.compressor.compress(payload), task_id, field)

    def _serialised(self, value: Any, field: str, serializer: str | None, is_failure: bool) -> Payload:
        try:
            return serialise(value, serializer or self.serializer, field)
        except NotEncodable:
            # a failure must be stored even if the task's own serializer is unknown or cannot encode it
            if serializer is None or not is_failure:
                raise
            return serialise(value, self.serializer, field)

    def encode_loosely(
        self, value: Any, *, task_id: str, field: str, call: Call = NO_CALL, cut_to: int | None = None
    ) -> Payload:
        """Encode like :meth:`encode`, but if the serializer refuses the value, encode the text of its ``repr``."""
        try:
            return self.encode(value, task_id=task_id, field=field, call=call, cut_to=cut_to)
        except NotEncodable:
            shown = self.redactor.shown(value, call, is_args=field == ARGS)
            return self.encode(shown, task_id=task_id, field=field, call=call, serializer="json", cut_to=cut_to)

    def decode(
        self, payload: Payload, *, task_id: str, field: str = RESULT, accept: Collection[str] | None = None
    ) -> Any:
        """Return the value of a payload that :meth:`encode` returned for the same task and field.

        Args:
            payload: the stored payload.
            task_id: the task to which it belongs.
            field: the field in which it was stored.
            accept: the content types that may be read; ``None`` for those of the settings.

        Raises:
            ContentRefused: its content type is not accepted.
            PayloadBomb: it is too large after decompression.
            TypeRefused: it names a class that is not allowed.
            PayloadUnreadable: it is damaged, or no decoder is installed.
            KeyMissing: the key that encrypted or signed it is missing.
            SealBroken: it was altered, or encrypted or signed for another task or field.
            UnsealedRefused: it is neither encrypted nor signed, but there are keys.
        """
        if payload.content_type == REFERENCE:
            payload = self.fetch(payload, task_id)
        if payload.content_type in (DAMAGED, FOREIGN):
            raise unreadable_payload(payload, task_id, field)
        try:
            plain = self.sealer.open(payload, task_id, field)
            if plain.compression:
                plain = self.compressor.decompress(plain)
            accepted = self.accept if accept is None else accept
            if self.old_pickles and plain.content_type == PICKLE and PICKLE not in (accepted or ()):
                return read_old_pickle(plain)
            return deserialise(plain, accepted, self.reader)
        except PayloadError as exc:
            raise of_task(exc, task_id, field) from exc

    def decode_open(self, payload: Payload, *, task_id: str, field: str) -> Any:
        """Return the value of a payload that is never encrypted or signed and always accepted, such as children.

        Raises:
            PayloadError: it cannot be read.
        """
        if payload.content_type in (DAMAGED, FOREIGN):
            raise unreadable_payload(payload, task_id, field)
        try:
            plain = self.compressor.decompress(payload)
            if self.old_pickles and plain.content_type == PICKLE:
                return read_old_pickle(plain)
            return deserialise(plain, None)
        except PayloadError as exc:
            raise of_task(exc, task_id, field) from exc

    def fetch(self, reference: Payload, task_id: str) -> Payload:
        """Return the payload that is kept in a blob.

        Raises:
            PayloadUnreadable: the blob is missing or damaged.
            BlobStoreUnknown: no blob store is configured.
            StoreError: the blob store cannot be reached.
        """
        if self.spiller is None:
            raise BlobStoreUnknown(
                f"the result of task {task_id} is in a blob, but no blob store is configured",
                where="ROOTCELLAR_BLOB_URL",
                remedy="set it to the same value as on the workers",
            )
        return self.spiller.fetch(reference, task_id)

    def encode_text(
        self,
        text: str | None,
        *,
        task_id: str,
        field: str = TRACEBACK,
        call: Call = NO_CALL,
        cut_to: int | None = None,
        is_redacted: bool = False,
    ) -> str | None:
        """Encode a text for a field of plain text, such as a traceback.

        Args:
            text: the text.
            task_id: the task that it belongs to.
            field: the field that it is stored in.
            call: the task and its arguments.
            cut_to: the most characters to which it is cut; ``None`` for no limit.
            is_redacted: whether secrets in it are masked already.
        """
        if text is None:
            return None
        redacted = text if is_redacted else self.redactor.text(text, call)
        return self.sealer.seal_text(redacted if cut_to is None else cut_middle(redacted, cut_to), task_id, field)

    def decode_text(self, text: str | None, *, task_id: str, field: str = TRACEBACK) -> str | None:
        """Return the text that was passed to :meth:`encode_text`.

        Raises:
            PayloadError: for the same reasons as :meth:`decode`.
        """
        return None if text is None else self.sealer.open_text(text, task_id, field)

    def opened(self, record: TaskRecord) -> tuple[TaskRecord, list[PayloadError]]:
        """Return a record with decrypted and verified values, to be shown, and the errors of values that were refused.

        A value that cannot be opened stays unchanged.
        """
        opened: dict[str, Any] = {}
        refused: list[PayloadError] = []
        for field in SEALED_FIELDS:
            payload = getattr(record, field)
            try:
                if payload is not None and payload.content_type != REFERENCE:
                    opened[field] = self.sealer.open(payload, record.task_id, field)
            except PayloadError as exc:
                refused.append(exc)
        try:
            opened["traceback"] = self.decode_text(record.traceback, task_id=record.task_id)
        except PayloadError as exc:
            refused.append(exc)
        return replace(record, **opened), refused


def unreadable_payload(payload: Payload, task_id: str, field: str) -> PayloadUnreadable:
    """Return the error for a payload that a store could not read."""
    if payload.content_type == DAMAGED:
        return PayloadUnreadable(
            f"the {field} of task {task_id!a} is damaged",
            remedy="restore the record from a backup, or forget the task",
        )
    if payload.body.startswith(_PICKLE_STARTS):
        return PayloadUnreadable(
            f"the {field} of task {task_id!a} is in a record that Celery stored as a pickle, and rootcellar does not "
            "run pickles",
            remedy="read it with Celery's own backend and result_serializer 'pickle', or let it expire",
        )
    return PayloadUnreadable(
        f"the {field} of task {task_id!a} is in a record that is not JSON",
        remedy="read it with Celery's own backend and the result_serializer that wrote it, or forget the task",
    )


def of_task(exc: PayloadError, task_id: str, field: str) -> PayloadError:
    """Return the same error with the names of the task and the field."""
    if not task_id or isinstance(exc, KeyMissing) or task_id in exc.what or ascii(task_id) in exc.what:
        return exc
    return type(exc)(f"the {field} of task {task_id!a} cannot be read: {exc.what}", where=exc.where, remedy=exc.remedy)


def serializer_of(call: Call, field: str = RESULT) -> str | None:
    """Return the name of a task's own serializer for a field, or ``None`` for that of the settings."""
    return getattr(call.task, "result_serializer", None) if field == RESULT else None
