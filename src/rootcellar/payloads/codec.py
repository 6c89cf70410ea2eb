"""The one way of a value into a payload and back: redact, serialise, limit, compress, seal; each a file beside this."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from rootcellar.errors import PayloadError
from rootcellar.payloads.compressing import compress, decompress, known_compression
from rootcellar.payloads.sealing import Sealing
from rootcellar.payloads.serialising import NotEncodable, content_type_of, deserialise, serialise
from rootcellar.records import Payload, TaskRecord

#: the fields of a record that hold values, and what else is encoded; an encrypted one is bound to its field
RESULT, ARGS, KWARGS, STAMPS, TRACEBACK = "result", "args", "kwargs", "stamps", "traceback"
CHORD_BODY = "chord body"
#: the fields of a record that are payloads and are sealed; ``children`` holds nothing but ids
SEALED_FIELDS = (RESULT, ARGS, KWARGS, STAMPS)


@dataclass(frozen=True, slots=True)
class Call:
    """Whose value is encoded, as far as it is known.

    Attributes:
        task: the task, whose attributes may override the settings (``result_serializer``, …).
        args, kwargs: what it was called with.
    """

    task: Any = None
    args: Any = None
    kwargs: Any = None


NOBODY = Call()


class Codec:
    """Turns values into payloads and back, as the settings want it. Safe to use from any thread.

    Args:
        serializer: the name of the serializer, where a call names none.
        compression: a name that kombu knows; ``None`` for none.
        accept: the content types that may be read; ``None`` for those that kombu trusts.
        sealing: encrypts or signs; ``None`` for neither.
    """

    def __init__(
        self,
        *,
        serializer: str = "json",
        compression: str | None = None,
        accept: Collection[str] | None = None,
        sealing: Sealing | None = None,
    ) -> None:
        content_type_of(serializer)
        self.serializer = serializer
        self.compression = known_compression(compression)
        self.accept = accept
        self.sealing = sealing or Sealing()

    def encode(
        self, value: Any, *, task_id: str, field: str = RESULT, call: Call = NOBODY, serializer: str | None = None
    ) -> Payload:
        """Encode a value of a task.

        Args:
            value: what the task returned, or was called with.
            task_id: the task (or, of a chord's body, the group) that it belongs to.
            field: which field of it, such as :data:`RESULT`.
            call: the task and its arguments.
            serializer: the name of a serializer; ``None`` for the settings'.

        Raises:
            NotEncodable: the serializer cannot encode it.
        """
        payload = serialise(value, serializer or self.serializer)
        return self.sealing.seal(compress(payload, self.compression), task_id, field)

    def encode_loosely(self, value: Any, *, task_id: str, field: str, call: Call = NOBODY) -> Payload:
        """Encode as :meth:`encode` does, or as the text of its ``repr`` what the serializer refuses."""
        try:
            return self.encode(value, task_id=task_id, field=field, call=call)
        except NotEncodable:
            return self.encode(repr(value), task_id=task_id, field=field, call=call, serializer="json")

    def decode(
        self, payload: Payload, *, task_id: str, field: str = RESULT, accept: Collection[str] | None = None
    ) -> Any:
        """Return the value of a payload that :meth:`encode` made for the same task and field.

        Args:
            payload: what a store returned.
            task_id: the task that it was stored for.
            field: the field that it was stored in.
            accept: the content types that may be read; ``None`` for those of the settings.

        Raises:
            ContentRefused: its content type is not accepted.
            PayloadUnreadable: it is damaged, or no decoder is installed.
            KeyMissing: the key that sealed it is not here.
            SealBroken: it was sealed for another task or field, or altered.
            UnsealedRefused: it is not sealed, and there are keys.
        """
        opened = self.sealing.open(payload, task_id, field)
        return deserialise(decompress(opened), self.accept if accept is None else accept)

    def encode_text(self, text: str | None, *, task_id: str, field: str = TRACEBACK, call: Call = NOBODY) -> str | None:
        """Return a text as it is to be stored where a store keeps plain text, such as a traceback."""
        return None if text is None else self.sealing.seal_text(text, task_id, field)

    def decode_text(self, text: str | None, *, task_id: str, field: str = TRACEBACK) -> str | None:
        """Return the text that :meth:`encode_text` was given.

        Raises:
            PayloadError: as :meth:`decode` does of a payload.
        """
        return None if text is None else self.sealing.open_text(text, task_id, field)

    def opened(self, record: TaskRecord) -> tuple[TaskRecord, list[PayloadError]]:
        """Return a record with its values neither encrypted nor signed, for whoever shows it; and what was refused.

        What cannot be opened is left as it is.
        """
        opened: dict[str, Any] = {}
        refused: list[PayloadError] = []
        for field in SEALED_FIELDS:
            payload = getattr(record, field)
            try:
                if payload is not None:
                    opened[field] = self.sealing.open(payload, record.task_id, field)
            except PayloadError as exc:
                refused.append(exc)
        try:
            opened["traceback"] = self.decode_text(record.traceback, task_id=record.task_id)
        except PayloadError as exc:
            refused.append(exc)
        return replace(record, **opened), refused
