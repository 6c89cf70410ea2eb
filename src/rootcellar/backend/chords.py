"""Chords: count the parts, call the body once.

The part is counted in the transaction that stores its result, so no crash comes between the two. The process that
completes the count claims the chord for the length of a lease, calls the body, and finishes the chord. If it dies
before that, the lease ends, and another one finishes the orphan: the same part when it is delivered again, a waiting
client, ``celery.backend_cleanup``, or the chord sweep that every worker runs. The id of the body never changes, so one
result is recorded even if the body is sent twice.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar, Token
from datetime import datetime, timezone
from functools import cached_property
from typing import Any, Protocol, TypeVar

from celery import chord, group, maybe_signature, states
from celery.app.task import Context
from celery.canvas import _chain
from celery.exceptions import ChordError
from celery.result import GroupResult
from celery.utils.functional import _regen, maybe_list
from celery.utils.log import get_logger
from kombu.exceptions import OperationalError

from rootcellar.backend.recorder import FAILED, Recorder, child_tuples
from rootcellar.errors import KeyMissing, PayloadError, PayloadUnreadable, RootcellarError
from rootcellar.payloads import CHORD_BODY, Codec, content_type_of, serialise
from rootcellar.payloads.blobs import REFERENCE
from rootcellar.records import ChordPart, ChordProgress, ChordRecord, PartResult, Payload
from rootcellar.retention.policy import Retention
from rootcellar.stores.base import Store
from rootcellar.stores.fields import FAILURES, id_of, number_of, text_id
from rootcellar.support.interruptions import raise_interruption
from rootcellar.text.escaping import visible_logs
from rootcellar.urls import redact

T = TypeVar("T")

logger = visible_logs(get_logger(__name__))

#: whether the state that is stored now is the end of a task
_is_end: ContextVar[bool] = ContextVar("rootcellar_is_end", default=False)

#: the attribute of a request that keeps the progress between storing the result and calling the body
_PROGRESS = "_rootcellar_chord_progress"


class _Ending:
    """A ``with`` block in which the end of a task is stored."""

    __slots__ = ("_token",)

    def __enter__(self) -> None:
        self._token: Token[bool] = _is_end.set(True)

    def __exit__(self, *_: object) -> None:
        _is_end.reset(self._token)


class ChordBackend(Protocol):
    """What chords need from their backend."""

    app: Any
    store: Store
    codec: Codec
    recorder: Recorder
    retention: Retention

    def ensure(self, work: Callable[[], T], action: str) -> T:
        """Call ``work``, which uses the store, and retry it in an outage."""

    def exception_to_python(self, exc: Any) -> Any:
        """Return the exception of a decoded result."""

    def chord_error_from_stack(self, callback: Any, exc: BaseException) -> Any:
        """Record that a body failed before it could run."""

    def mark_as_failure(self, task_id: str, exc: BaseException, *, request: Any) -> Any:
        """Record that a task failed, and count its part of a chord."""

    def store_result(self, task_id: str, result: Any, state: str, *, request: Any) -> Any:
        """Store the state and the result of a task."""

    def on_chord_part_return(self, request: Any, state: str, result: Any) -> None:
        """Count a part of a chord."""


class Chords:
    """The chords of one backend.

    Args:
        backend: the backend that stores the results.
        lease: seconds that a process has to call the body of a chord that it has completed.
    """

    def __init__(self, backend: ChordBackend, lease: float) -> None:
        self._backend = backend
        self._app = backend.app
        self.lease = lease

    # -- the client's side

    def begin(self, header_result_args: Sequence[Any], body: Any) -> None:
        """Store the body, and the header if it contains groups. A sweep needs both to finish an orphan."""
        header = None
        if not isinstance(header_result_args[1], _regen):
            result = self._app.GroupResult(*header_result_args)
            if any(isinstance(member, GroupResult) for member in result.results):
                header = serialise(result.as_tuple(), "json")
        self._backend.store.begin_chord(
            ChordRecord(
                group_id=header_result_args[0],
                body=self._backend.codec.encode(
                    dict(body),
                    task_id=header_result_args[0],
                    field=CHORD_BODY,
                    serializer=self._app.conf.task_serializer,
                ),
                header=header,
                expires_at=self._backend.retention.chord_expiry(datetime.now(timezone.utc)),
            )
        )

    # -- the worker's side

    def part_of(self, request: Any, state: str, result: Any, *, holds_result: bool) -> ChordPart | None:
        """Return the part of a chord for a task that ended in ``state``; ``None`` if it is in no chord.

        Args:
            request: the task's request, or ``None``.
            state: the state to be stored.
            result: the encodable result.
            holds_result: whether the part must contain the result, because it comes without a record.
        """
        if request is None or not getattr(request, "chord", None) or state not in states.READY_STATES:
            return None
        if id_of(request.group) is None or not request.id:
            return None
        return self._part(request, state, self._encoded(result, state, request) if holds_result else None)

    def _part(self, request: Any, state: str, result: Payload | None) -> ChordPart:
        return ChordPart(
            group_id=text_id(request.group),
            task_id=text_id(request.id),
            group_index=number_of(request.group_index),
            state=state,
            result=result,
            owner=self.owner,
            expires_at=self._backend.retention.chord_expiry(datetime.now(timezone.utc)),
            delivery=uuid.uuid4().hex,
        )

    def count_by_hand(self, request: Any) -> bool:
        """Count the part of a task that has stored a final state by itself, and ended without another state.

        Returns:
            whether there was such a state.
        """
        if id_of(request.group) is None or not request.id:
            return False
        task_id = text_id(request.id)
        record = self._backend.ensure(lambda: self._backend.store.get(task_id), f"read task {task_id}")
        if record is None or record.state not in states.READY_STATES:
            return False
        part = self._part(request, record.state, record.result)
        progress = self._backend.ensure(
            lambda: self._backend.store.count_part(part, lease=self.lease), f"count a part of chord {part.group_id}"
        )
        self.proceed(request, progress)
        return True

    def ending(self) -> _Ending:
        """Return a ``with`` block; a state that is stored in it is the end of a task."""
        return _Ending()

    def is_end(self) -> bool:
        """Return whether the state that is stored now is the end of a task, and so counts as a part of its chord."""
        return _is_end.get()

    def _encoded(self, result: Any, state: str, request: Any) -> Payload:
        call = self._backend.recorder.call_of(request)
        # the limit does not apply: a result that is too large was refused before, and a blob would have no record
        return self._backend.codec.encode(
            result, task_id=text_id(request.id), call=call, is_failure=state in FAILED, is_limited=False
        )

    def set_progress(self, request: Any, progress: ChordProgress | None) -> None:
        """Keep the progress until Celery calls ``on_chord_part_return``. A claim is not overwritten."""
        earlier: ChordProgress | None = getattr(request, _PROGRESS, None)
        if earlier is None or not earlier.claimed:
            setattr(request, _PROGRESS, progress)

    def take_progress(self, request: Any) -> ChordProgress | None:
        """Return the progress that :meth:`set_progress` kept, and remove it."""
        progress: ChordProgress | None = request.__dict__.pop(_PROGRESS, None)
        return progress

    def proceed(self, request: Any, progress: ChordProgress | None) -> None:
        """Call the body if the part of ``request`` completed the chord."""
        if progress is not None and progress.claimed:
            self._call_body(text_id(request.group), maybe_signature(request.chord, app=self._app))

    @cached_property
    def owner(self) -> str:
        """A fingerprint of the broker that this app sends to."""
        url = redact(str(self._app.conf.broker_write_url or self._app.conf.broker_url or ""))
        return hashlib.sha256(url.encode()).hexdigest()[:16]

    # -- orphans

    def sweep(self) -> int:
        """Finish the chords whose body was not called; return how many."""
        count = 0
        for group_id in self._backend.store.orphaned_chords(self.owner):
            claimant = f"sweep/{uuid.uuid4().hex}"
            if self._backend.store.claim_chord(group_id, claimant, lease=self.lease):
                logger.warning("Chord %s was complete but its body had not been called: calling it.", group_id)
                count += self._try_finish_orphan(group_id)
        return count

    def _try_finish_orphan(self, group_id: str) -> bool:
        """Finish an orphan; return whether that was possible. A damaged one must not delay the others."""
        try:
            self._finish_orphan(group_id)
        except RootcellarError as exc:
            if exc.retryable:
                raise
            logger.error("Chord %s cannot be finished: %s", group_id, exc)
            return False
        return True

    def _finish_orphan(self, group_id: str) -> None:
        chord = self._backend.store.get_chord(group_id)
        if chord is None or chord.body is None:
            logger.error("Chord %s is complete but its body was never stored: it cannot be called.", group_id)
            self._backend.store.finish_chord(group_id)
            return
        accept = {content_type_of(self._app.conf.task_serializer)}
        body = self._backend.codec.decode(chord.body, task_id=group_id, field=CHORD_BODY, accept=accept)
        callback = _signature_of(body, group_id, self._app)
        body_id = callback.options.get("task_id")
        called = self._backend.store.get(body_id) if body_id else None
        if called is not None and called.state in states.READY_STATES:
            self._backend.store.finish_chord(group_id)
        else:
            self._call_body(group_id, callback)

    # -- the body

    def _call_body(self, group_id: str, callback: Any) -> None:
        try:
            values = self._header_values(group_id)
        except ChordError as exc:
            logger.error("Chord %s failed: %s", group_id, exc)
            self._fail(callback, exc)
        else:
            if not self._publish(group_id, callback, values):
                return
        self._backend.ensure(lambda: self._backend.store.finish_chord(group_id), f"finish chord {group_id}")

    def _publish(self, group_id: str, callback: Any, values: list[Any]) -> bool:
        """Send the body; return whether the chord is done. If the broker cannot be reached, a sweep sends it later."""
        send = getattr(self._app.amqp, "_retry_publish", _call)
        try:
            send(callback.delay, values)
        except OperationalError as exc:
            logger.error(
                "The body of chord %s could not be sent: %s. A sweep will send it in %g s.", group_id, exc, self.lease
            )
            return False
        except Exception as exc:  # any error of the body ends the chord, as in Celery
            raise_interruption(exc)
            logger.exception("The body of chord %s could not be sent", group_id)
            self._fail(callback, _with_cause(f"Callback error: {exc!r}", exc))
        return True

    def _fail(self, callback: Any, exc: ChordError) -> None:
        """Mark the body as failed, and every task that would have completed it.

        Celery itself does not do this for a body that is a chord or a part of one. Each errback is called once: Celery
        also links the errback of a chord to the chords in its header; those fail the outer chord, whose body calls it.
        """
        for end, _ in _ends(callback):
            if end.options.get("chord"):
                _unlink(callback, _errbacks(maybe_signature(end.options["chord"], app=self._app)))
        self._store_body_failure(callback, exc)
        self._backend.chord_error_from_stack(callback, exc)
        for end, errbacks in _ends(callback):
            options = end.options
            request = Context(
                id=options.get("task_id"),
                task=end.task,
                chord=options.get("chord"),
                group=options.get("group_id"),
                group_index=options.get("group_index"),
                root_id=options.get("root_id"),
                errbacks=errbacks,
                delivery_info={},
            )
            known = self._backend.store.get(request.id) if request.id else None
            if request.id and (known is None or known.state not in states.READY_STATES):
                self._backend.mark_as_failure(request.id, exc, request=request)
            elif request.chord:
                self._backend.on_chord_part_return(request, states.FAILURE, exc)

    def _store_body_failure(self, callback: Any, exc: ChordError) -> None:
        """Store the failure with the body's name. Celery would store it without, because the body never ran."""
        if isinstance(callback, (group, chord, _chain)) or not callback.id:
            return
        relations = {name: callback.options.get(name) for name in ("root_id", "parent_id", "group_id", "group_index")}
        request = Context(id=callback.id, task=callback.task, group=relations.pop("group_id"), **relations)
        self._backend.store_result(callback.id, exc, states.FAILURE, request=request)

    def _header_values(self, group_id: str) -> list[Any]:
        """Return the values of the header's tasks in its order and shape.

        Raises:
            ChordError: a task failed, or its result was deleted or cannot be read.
        """
        store = self._backend.store
        parts = self._backend.ensure(lambda: store.chord_parts(group_id), f"read the parts of chord {group_id}")
        chord = self._backend.ensure(lambda: store.get_chord(group_id), f"read chord {group_id}")
        values = [self._value(part) for part in parts]
        if chord is None or chord.header is None:
            return values
        by_id = {part.task_id: value for part, value in zip(parts, values, strict=True)}
        return [_shaped(member, by_id) for member in self._members(chord.header, group_id)]

    def _members(self, header: Payload, group_id: str) -> list[Any]:
        try:
            found = self._backend.codec.decode_open(header, task_id=group_id, field="chord header")
            ((_, members),) = child_tuples([found], f"the tasks in the header of chord {group_id!a}")
        except PayloadError as exc:
            raise _with_cause(f"The header of chord {group_id} cannot be read: {exc}", exc) from exc
        return members or []

    def _value(self, part: PartResult) -> Any:
        if part.result is None:
            raise ChordError(f"Dependency {part.task_id} is {part.state}, but its result was deleted")
        try:
            value = self._decoded(part.result, part.task_id)
        except KeyMissing:
            # another worker may have the key, or this one may get it: the next sweep tries again
            raise
        except PayloadError as exc:
            why = f"Dependency {part.task_id} is {part.state}, but its result cannot be read: {exc}"
            raise _with_cause(why, exc) from exc
        if part.state in states.PROPAGATE_STATES:
            raised = self._backend.exception_to_python(value)
            raise _with_cause(f"Dependency {part.task_id} raised {raised!r}", raised)
        return value

    def _decoded(self, stored: Payload, task_id: str) -> Any:
        def decode() -> Any:
            return self._backend.codec.decode(stored, task_id=task_id)

        if stored.content_type != REFERENCE:
            return decode()
        # the blob store may have an outage, like a store
        return self._backend.ensure(decode, f"read the blob of task {task_id}")


def _ends(signature: Any, errbacks: list[Any] | None = None) -> Iterator[tuple[Any, list[Any]]]:
    """Yield the tasks whose end is the end of ``signature``, each with the errbacks that Celery does not call.

    Celery calls the errbacks of a chord's body. If this body is itself a chord, it does not call those of its body.

    Args:
        signature: a task, a chord, a group or a chain.
        errbacks: the errbacks of the signatures that contain this one; ``None`` if Celery calls its errbacks.
    """
    if isinstance(signature, chord):
        yield from _ends(signature.body, errbacks or [])
        return
    if errbacks is not None:
        own = _linked(signature)
        errbacks = [*errbacks, *(errback for errback in own if errback not in errbacks)]
    if isinstance(signature, group):
        for member in signature.tasks:
            yield from _ends(member, errbacks)
    elif isinstance(signature, _chain):
        # the tasks of a chain that never began have errbacks of their own, which Celery does not call either
        yield from ((end, errbacks or []) for end, _ in _ends(signature.tasks[-1]))
    else:
        yield signature, errbacks or []


def _inner(signature: Any) -> list[Any]:
    """Return the inner signatures whose errbacks are also called if ``signature`` fails."""
    if isinstance(signature, chord):
        return [signature.body]
    return list(signature.tasks) if isinstance(signature, group) else []


def _linked(signature: Any) -> list[Any]:
    """Return the errbacks that are linked to a signature itself."""
    return list(maybe_list(signature.options.get("link_error")) or [])


def _errbacks(signature: Any) -> list[Any]:
    """Return all errbacks that are called if ``signature`` fails."""
    return [*_linked(signature), *(errback for inner in _inner(signature) for errback in _errbacks(inner))]


def _unlink(signature: Any, errbacks: list[Any]) -> None:
    """Remove ``errbacks`` from those that are called if ``signature`` fails."""
    if linked := _linked(signature):
        signature.options["link_error"] = [errback for errback in linked if errback not in errbacks]
    for inner in _inner(signature):
        _unlink(inner, errbacks)


def _shaped(member: Any, values: dict[str, Any]) -> Any:
    """Return the value of a member of a header: a task's value, or, for a group, the list of its members' values."""
    (task_id, _), nodes = member
    if nodes is not None:
        return [_shaped(node, values) for node in nodes]
    if task_id not in values:
        raise ChordError(f"Dependency {task_id} is not among the parts that were counted")
    return values[task_id]


def _signature_of(body: Any, group_id: str, app: Any) -> Any:
    """Return the signature of a stored body.

    Raises:
        PayloadUnreadable: it is not a signature.
    """
    parts: dict[str, Any] = {"task": str, "args": (list, tuple), "kwargs": dict, "options": dict}
    try:
        if not all(isinstance(body[name], kind) for name, kind in parts.items()):
            raise TypeError("it is not a signature")
        return maybe_signature(body, app=app)
    except FAILURES as exc:
        raise PayloadUnreadable(
            f"the body of chord {group_id!a} is damaged: {type(exc).__name__}: {exc}",
            remedy="restore the chord from a backup, or call the body by hand",
        ) from exc


def _with_cause(message: str, cause: BaseException | None) -> ChordError:
    error = ChordError(message)
    if isinstance(cause, Exception):
        error.__cause__ = cause
    return error


def _call(send: Callable[..., Any], *args: Iterable[Any]) -> Any:
    return send(*args)
