"""Makes a record from a task's request and outcome, and converts a record to Celery's dict for results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from uuid import UUID

from celery import states
from celery.utils.log import get_logger

from rootcellar.backend import lifecycle
from rootcellar.backend.retaining import expiry_of
from rootcellar.backend.sent_with import sent_with
from rootcellar.errors import PayloadUnreadable
from rootcellar.payloads import ARGS, KWARGS, RESULT, STAMPS, Call, Codec, serialise
from rootcellar.payloads.stamps import CUT, SENT_WITH, STATES_SENT_WITH
from rootcellar.records import NO_DATE, SENT, Payload, TaskRecord, UnreadRecord
from rootcellar.retention.policy import Retention
from rootcellar.stores.fields import id_of, moment_of, number_of, text_id, text_of, unreadable
from rootcellar.stores.relations import children_of
from rootcellar.support.interruptions import raise_ending
from rootcellar.text.escaping import visible_logs

if TYPE_CHECKING:
    from rootcellar.history.grouping.grouping import Grouper

logger = visible_logs(get_logger(__name__))

#: states whose result is an exception
FAILED = states.EXCEPTION_STATES | {states.REJECTED}
#: how deep results may be nested
_MAX_DEPTH = 200
_CUTTABLE = ("result", "args", "kwargs", "children", "stamps", "traceback")

#: fields of a record, the request's attribute for each, and the function that reads it
_REQUEST_FIELDS: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("name", "task", text_of),
    ("worker", "hostname", text_of),
    ("retries", "retries", number_of),
    ("group_id", "group", id_of),
    ("group_index", "group_index", number_of),
    ("parent_id", "parent_id", id_of),
    ("root_id", "root_id", id_of),
    ("sent_at", lifecycle.SENT_AT, moment_of),
    ("started_at", lifecycle.STARTED_AT, moment_of),
)


class Recorder:
    """Makes the records of one app's tasks.

    Args:
        codec: encodes the values.
        retention: how long results are kept.
        is_extended: whether arguments are stored.
        task_of: returns the task of a request, or ``None`` if it is unknown.
        make_grouper: makes what computes the groups of failures. It is called when a task fails for the first time.
    """

    def __init__(
        self,
        codec: Codec,
        retention: Retention,
        *,
        is_extended: bool,
        task_of: Callable[[Any], Any],
        make_grouper: Callable[[], Grouper],
    ) -> None:
        self._make_grouper = make_grouper
        self._grouper: Grouper | None = None
        self._has_warned = False
        self._codec = codec
        self._retention = retention
        self._is_extended = is_extended
        self._task_of = task_of

    def call_of(self, request: Any) -> Call:
        """Return the task and the arguments of a request."""
        if request is None:
            return Call()
        return Call(self._task_of(request), getattr(request, "args", None), getattr(request, "kwargs", None))

    def record(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any,
        request: Any,
        children: Any = None,
        cut_to: int | None = None,
        raised: BaseException | None = None,
    ) -> TaskRecord:
        """Return the record of a task in ``state``.

        Args:
            task_id: the task.
            result: the encodable result.
            state: the new state.
            traceback: the text of a failure's traceback, or ``None``.
            request: the task's request, or ``None``.
            children: the results of the task's own subtasks, as Celery's tuples.
            cut_to: the size in bytes to which each field except a returned value is cut; ``None`` for no limit.
                The stamp :data:`CUT` names the fields that were cut.
            raised: the exception of a failure, if it is at hand.

        Raises:
            NotEncodable: the result cannot be encoded.
        """
        now = datetime.now(timezone.utc)
        call = self.call_of(request)
        fields: dict[str, Any] = {
            "task_id": task_id,
            "state": state,
            "result": self._codec.encode(
                result, task_id=task_id, field=RESULT, call=call, is_failure=state in FAILED, cut_to=cut_to
            ),
            "done_at": now if state in states.READY_STATES else None,
        }
        if traceback is not None:
            traceback = self._codec.redactor.text(str(traceback), call)
            fields["traceback"] = self._codec.encode_text(
                traceback, task_id=task_id, call=call, cut_to=cut_to, is_redacted=True
            )
        if state == states.FAILURE:
            fields["failure_group"] = self._failure_group(result, traceback, request, call, raised)
        if children and (others := children_of(task_id, text_ids(children))):
            fields["children"] = _encoded_children(others, cut_to)
        if request is not None:
            fields.update(self._request_fields(request, state, task_id, call, cut_to))
        fields["expires_at"] = expiry_of(self._retention, now, state, fields, request, call.task)
        if cut_to is not None:
            whole = self.record(task_id, result, state, traceback, request, children, raised=raised)
            stamped = {} if _size(whole.stamps) > cut_to else self._stamped(request, state)
            fields["stamps"] = self._stamps_with_cut(stamped, whole, TaskRecord(**fields), call)
        return TaskRecord(**fields)

    def sent(self, request: Any) -> TaskRecord:
        """Return the record of a task that was sent, for the request that its message will be.

        Its result is what is known of its start: ``{"eta": …}`` if it must not start at once. It is kept as long as any
        result, counted from its ETA.

        Raises:
            RootcellarError: it cannot be encoded.
        """
        eta = moment_of(request.eta)
        known = None if eta is None else {"eta": eta.isoformat()}
        record = self.record(text_id(request.id), known, SENT, None, request)
        if eta is None:
            return record
        start = max(eta, datetime.now(timezone.utc))
        known_fields = {"name": record.name, "queue": record.queue}
        task = self._task_of(request)
        return replace(record, expires_at=expiry_of(self._retention, start, SENT, known_fields, request, task))

    def ended_unstored(self, request: Any, state: str) -> TaskRecord:
        """Return the record of a task that has ended and whose result is ignored: its name, its state and its times.

        Args:
            request: the task's request.
            state: the state in which it ended.
        """
        now = datetime.now(timezone.utc)
        task_id = text_id(request.id)
        facts = _facts(request, task_id)
        expires_at = expiry_of(self._retention, now, state, facts, request, self._task_of(request))
        return TaskRecord(task_id=task_id, state=state, done_at=now, expires_at=expires_at, **facts)

    def _failure_group(
        self, result: Any, traceback: str | None, request: Any, call: Call, raised: BaseException | None
    ) -> int | None:
        """Return the group of a failure; ``None`` if it cannot be computed, because the failure must be stored."""
        try:
            # imported late: most tasks never fail
            if self._grouper is None:
                self._grouper = self._make_grouper()
            name = text_of(getattr(request, "task", None))
            grouped = self._grouper.group(
                result, traceback, name, raised, lambda text: self._codec.redactor.text(text, call)
            )
        except BaseException as exc:  # the classes and settings of an application may raise any exception, or exit
            raise_ending(exc)
            if not self._has_warned:
                self._has_warned = True
                logger.warning("A failure is stored without its group (logged once): %s", exc, exc_info=True)
            return None
        return grouped.group

    def _stamps_with_cut(
        self, stamped: Mapping[str, Any], whole: TaskRecord, cut: TaskRecord, call: Call
    ) -> Payload | None:
        """Return the stamps, with one that names the fields that were cut and their original sizes."""
        sizes = {name: (_size(getattr(whole, name)), _size(getattr(cut, name))) for name in _CUTTABLE}
        cut_sizes = {name: before for name, (before, after) in sizes.items() if after < before}
        if not cut_sizes:
            return cut.stamps
        return self._codec.encode_loosely({**stamped, CUT: cut_sizes}, task_id=cut.task_id, field=STAMPS, call=call)

    def _stamped(self, request: Any, state: str) -> dict[str, Any]:
        """Return the stamps of a request by their names; of a failure also how the task was sent."""
        stamped = _stamped(request)
        if self._is_extended and state in STATES_SENT_WITH and (how := sent_with(request)):
            stamped[SENT_WITH] = how
        return stamped

    def _request_fields(self, request: Any, state: str, task_id: str, call: Call, cut_to: int | None) -> dict[str, Any]:
        """Return the fields from the request: name, times and relations, and with ``result_extended`` the arguments."""
        fields = _facts(request, task_id)
        if stamped := self._stamped(request, state):
            fields["stamps"] = self._codec.encode_loosely(
                stamped, task_id=task_id, field=STAMPS, call=call, cut_to=cut_to
            )
        if self._is_extended:
            # a value of the message that the serializer refuses is stored as text, so that the task does not fail
            for field, value in ((ARGS, call.args), (KWARGS, call.kwargs)):
                if value is not None:
                    # positional arguments as a list, which queries and other readers expect
                    value = list(value) if isinstance(value, tuple) else value
                    fields[field] = self._codec.encode_loosely(
                        value, task_id=task_id, field=field, call=call, cut_to=cut_to
                    )
        return fields

    def meta(self, record: TaskRecord) -> dict[str, Any]:
        """Return a record as Celery's dict, with its exception as plain data.

        A damaged field that only describes the call is ``None``.

        Raises:
            PayloadError: a value, the state or the traceback cannot be read.
        """
        for field in unreadable(record) if record.damage else ():
            if isinstance(record, UnreadRecord):
                raise record.error
            raise PayloadUnreadable(
                f"the {field} of task {record.task_id!a} is damaged",
                remedy="restore the record from a backup, or forget the task",
            )
        # each field is tested here, because most records have few: every result that is read takes this path
        task_id, decode = record.task_id, self._codec.decode
        result, args, kwargs, traceback = record.result, record.args, record.kwargs, record.traceback
        meta: dict[str, Any] = {
            "task_id": task_id,
            "status": record.state,
            "result": None if result is None else decode(result, task_id=task_id, field=RESULT),
            "traceback": None if traceback is None else self._codec.decode_text(traceback, task_id=task_id),
            "children": [] if record.children is None else self._children(record.children, task_id),
            "date_done": None if record.done_at == NO_DATE else record.done_at,
            "name": record.name,
            "args": None if args is None else decode(args, task_id=task_id, field=ARGS),
            "kwargs": None if kwargs is None else decode(kwargs, task_id=task_id, field=KWARGS),
            "worker": record.worker,
            "retries": record.retries,
            "queue": record.queue,
            "group_id": record.group_id,
            "parent_id": None if record.parent_id == task_id else record.parent_id,
            "root_id": record.root_id,
            "date_sent": record.sent_at,
            "date_started": record.started_at,
        }
        if record.stamps is None:
            return meta
        stamps = decode(record.stamps, task_id=task_id, field=STAMPS)
        if isinstance(stamps, Mapping) and (stamps := {name: stamps[name] for name in stamps if name != SENT_WITH}):
            # stamps are keys next to the fields, as in Celery; a stamp with the name of a field does not replace it
            meta = {**stamps, **meta, "stamped_headers": list(stamps)}
        return meta

    def _children(self, stored: Payload, task_id: str) -> list[Any]:
        found = self._codec.decode_open(stored, task_id=task_id, field="children")
        return children_of(task_id, child_tuples(found, f"the children of task {task_id!a}"))


def _facts(request: Any, task_id: str) -> dict[str, Any]:
    """Return the fields from the request that contain no value of the application: name, times, relations, queue."""
    fields: dict[str, Any] = {}
    for field, attribute, read in _REQUEST_FIELDS:
        value = getattr(request, attribute, None)
        if value is not None:
            fields[field] = read(value)
    delivery_info = getattr(request, "delivery_info", None)
    if type(delivery_info) is dict or isinstance(delivery_info, Mapping):
        # a message of a fanout exchange has an empty key, which names no queue
        fields["queue"] = text_of(delivery_info.get("routing_key")) or None
    if fields.get("parent_id") == task_id:
        # in a retry's message from Celery, the task is its own parent
        del fields["parent_id"]
    return fields


def child_tuples(found: Any, description: str) -> list[Any]:
    """Check stored results: return them if Celery can make results of them.

    Args:
        found: a list of tuples of Celery's ``as_tuple``: ``((id, parent), members or None)``.
        description: a noun phrase for the error.

    Raises:
        PayloadUnreadable: it has another form.
    """
    if found is None:
        return []
    if not isinstance(found, (list, tuple)) or not all(_is_result(one, _MAX_DEPTH) for one in found):
        raise PayloadUnreadable(
            f"{description} are damaged: the stored value is not a list of results",
            remedy="restore the record from a backup, or forget it",
        )
    return list(found)


def _is_result(found: Any, depth: int) -> bool:
    if not isinstance(found, (list, tuple)) or len(found) != 2 or depth == 0:
        return False
    own, members = found
    task_id, parent = own if isinstance(own, (list, tuple)) and len(own) == 2 else (own, None)
    return (
        isinstance(task_id, (str, UUID))
        and (not parent or _is_result(parent, depth - 1))
        and (members is None or (isinstance(members, (list, tuple)) and all(_is_result(m, depth - 1) for m in members)))
    )


def text_ids(found: Any) -> Any:
    """Return a tuple of Celery's results with its ids as texts."""
    if isinstance(found, (list, tuple)):
        return [text_ids(part) for part in found]
    return found if found is None else text_id(found)


def _stamped(request: Any) -> dict[str, Any]:
    """Return the stamps of a request by their names."""
    stamps, names = getattr(request, "stamps", None), getattr(request, "stamped_headers", None)
    if stamps is None or not isinstance(stamps, Mapping) or not isinstance(names, (list, tuple, set, frozenset)):
        return {}
    return {name: stamps[name] for name in names if isinstance(name, str) and name in stamps}


def _encoded_children(children: Sequence[Any], cut_to: int | None) -> Payload:
    """Return the encoded tuples of children: as many of the first ones as fit."""
    payload = serialise(children, "json")
    kept = len(children)
    while cut_to is not None and len(payload.body) > cut_to and kept:
        kept = min(kept - 1, kept * cut_to // len(payload.body))
        payload = serialise(children[:kept], "json")
    return payload


def _size(value: Payload | str | None) -> int:
    """Return the size of an encoded field in bytes."""
    return 0 if value is None else len(value) if isinstance(value, str) else len(value.body)
