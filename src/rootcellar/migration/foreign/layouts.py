"""What a system keeps of a record: a target stores this much and counts the rest, and ends are compared in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from functools import reduce

from rootcellar.errors import PayloadError, RecordRefused, RootcellarError
from rootcellar.migration.endpoint import Endpoint, Layout, Lookup, Source, Target
from rootcellar.payloads import Codec, serialise
from rootcellar.records import NO_DATE, TYPED_JSON, GroupRecord, Payload, TaskRecord
from rootcellar.stores.fields import EARLIEST
from rootcellar.stores.mirroring import CopyReport

_JSON = "application/json"
#: what other systems may lack, and its names in a message
LOST = {
    "expires_at": "when they expire",
    "sent_at": "when they were sent",
    "started_at": "when they were started",
    "name": "the name of the task",
    "args": "the arguments",
    "kwargs": "the keyword arguments",
    "queue": "the queue",
    "worker": "the worker",
    "retries": "the number of retries",
    "children": "the children",
    "stamps": "the stamps",
    "group_id": "their group",
    "group_index": "their place in the group",
    "parent_id": "their parent",
    "root_id": "the root of their workflow",
    "failure_group": "the group of failures",
    "traceback": "the traceback",
}
_EVERYTHING = frozenset(each.name for each in fields(TaskRecord))


@dataclass(frozen=True, slots=True)
class PlainLayout:
    """A layout with values in plain JSON, as Celery's own clients read them.

    Attributes:
        fields: the fields of a record that are kept.
        group_expiry: whether a saved group keeps when it expires.
        unit: the smallest difference between two times that is kept.
    """

    fields: frozenset[str] = _EVERYTHING
    group_expiry: bool = True
    unit: timedelta = timedelta(microseconds=1)

    def kept(self, record: TaskRecord, codec: Codec) -> TaskRecord:
        """See :class:`~rootcellar.migration.endpoint.Layout`."""
        changed: dict[str, object] = {name: None for name in LOST if name not in self.fields}
        result = record.result
        changed["result"] = None if result is None else _plain(result, record.task_id, "result", codec)
        if record.traceback is not None and "traceback" not in changed:
            changed["traceback"] = codec.decode_text(record.traceback, task_id=record.task_id)
        for name in ("args", "kwargs", "stamps"):
            payload = getattr(record, name)
            if payload is not None and name not in changed:
                changed[name] = _plain_or_none(payload, record.task_id, name, codec)
        for name in ("sent_at", "started_at", "done_at"):
            if name not in changed:
                changed[name] = self._rounded(getattr(record, name))
        return replace(record, **changed)  # type: ignore[arg-type]

    def kept_group(self, group: GroupRecord, codec: Codec) -> GroupRecord:
        """See :class:`~rootcellar.migration.endpoint.Layout`."""
        return replace(
            group,
            result=_plain(group.result, group.group_id, "result", codec),
            done_at=self._rounded(group.done_at) or NO_DATE,
            expires_at=group.expires_at if self.group_expiry else None,
        )

    def _rounded(self, moment: datetime | None) -> datetime | None:
        return None if moment is None else moment - (moment - EARLIEST) % self.unit


def _plain(payload: Payload, task_id: str, field: str, codec: Codec) -> Payload:
    """Return a value as plain JSON.

    Raises:
        PayloadError: it cannot be read, or JSON has no such value.
    """
    is_plain = payload.content_type == _JSON and payload.content_encoding == "utf-8"
    if is_plain and not payload.compression and not payload.key_id:
        return payload
    accept = {_JSON, TYPED_JSON, *(codec.accept or ())}
    return serialise(codec.decode(payload, task_id=task_id, field=field, accept=accept), "json", field)


def _plain_or_none(payload: Payload, task_id: str, field: str, codec: Codec) -> Payload | None:
    try:
        return _plain(payload, task_id, field, codec)
    except PayloadError:
        # the result is worth more than its arguments; they are counted as lost
        return None


class LayoutTarget:
    """A target that stores what its layout keeps, and counts what it does not keep.

    Args:
        target: stores records.
        layout: its layout.
        codec: decodes values.

    Attributes:
        lost: how many of the records that were written lost a field, by the field's name.
        groups_lost: how many saved groups lost their expiry.
    """

    def __init__(self, target: Target, layout: Layout, codec: Codec) -> None:
        self._target = target
        self._layout = layout
        self._codec = codec
        self.lost: Counter[str] = Counter()
        self.groups_lost = 0

    def copy(self, records: Sequence[TaskRecord], *, newer_wins: bool = False) -> CopyReport:
        """See :class:`~rootcellar.migration.endpoint.Target`. A value that the layout cannot keep is refused."""
        refused: dict[str, str] = {}
        kept: list[TaskRecord] = []
        for record in records:
            try:
                kept.append(self._layout.kept(record, self._codec))
            except PayloadError as exc:
                refused[record.task_id] = str(exc)
        report = self._target.copy(kept, newer_wins=newer_wins) if kept else CopyReport()
        whole = {record.task_id: record for record in records}
        for record in kept:
            if record.task_id in report.written:
                before = whole[record.task_id]
                self.lost.update(
                    name for name in LOST if getattr(record, name) is None and getattr(before, name) is not None
                )
        return replace(report, refused={**refused, **report.refused})

    def copy_groups(self, groups: Sequence[GroupRecord], *, newer_wins: bool = False) -> int:
        """See :class:`~rootcellar.migration.endpoint.Target`.

        Raises:
            RecordRefused: the layout cannot keep a group.
        """
        kept = []
        for group in groups:
            try:
                kept.append(self._layout.kept_group(group, self._codec))
            except PayloadError as exc:
                raise RecordRefused(
                    f"the saved group {group.group_id!a} cannot be copied: {exc.what}",
                    where="TARGET",
                    remedy=f"{exc.remedy}; --no-groups leaves out saved groups",
                ) from exc
        self.groups_lost += sum(
            before.expires_at is not None and after.expires_at is None
            for before, after in zip(groups, kept, strict=True)
        )
        return self._target.copy_groups(kept, newer_wins=newer_wins)


def comparable(one: Endpoint, other: Endpoint, codec: Codec) -> tuple[Endpoint, Endpoint]:
    """Return two ends that return, and store, only what both of their layouts keep."""
    layouts = [end.layout for end in (one, other) if end.layout is not None]
    if not layouts:
        return one, other
    seen = _Seen(layouts, codec)
    return _seen(one, seen), _seen(other, seen)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is seen of records through some layouts."""

    layouts: Sequence[Layout]
    codec: Codec

    def task(self, record: TaskRecord) -> TaskRecord:
        try:
            return reduce(lambda seen, layout: layout.kept(seen, self.codec), self.layouts, record)
        except RootcellarError:
            # it cannot be in both systems, so it must count as a difference
            return record

    def group(self, group: GroupRecord) -> GroupRecord:
        try:
            return reduce(lambda seen, layout: layout.kept_group(seen, self.codec), self.layouts, group)
        except RootcellarError:
            return group


def _seen(end: Endpoint, seen: _Seen) -> Endpoint:
    return replace(
        end,
        source=None if end.source is None else _SeenSource(end.source, seen.task, seen.group),
        lookup=None if end.lookup is None else _SeenLookup(end.lookup, seen.task, seen.group),
    )


@dataclass(frozen=True, slots=True)
class _SeenSource:
    source: Source
    task: Callable[[TaskRecord], TaskRecord]
    group: Callable[[GroupRecord], GroupRecord]

    def stream(self, cursor: str | None = None, limit: int = 1_000) -> tuple[Sequence[TaskRecord], str | None]:
        records, cursor = self.source.stream(cursor, limit)
        return [*map(self.task, records)], cursor

    def stream_groups(self, cursor: str | None = None, limit: int = 1_000) -> tuple[Sequence[GroupRecord], str | None]:
        groups, cursor = self.source.stream_groups(cursor, limit)
        return [*map(self.group, groups)], cursor

    def count_roughly(self) -> int:
        return self.source.count_roughly()


@dataclass(frozen=True, slots=True)
class _SeenLookup:
    lookup: Lookup
    task: Callable[[TaskRecord], TaskRecord]
    group: Callable[[GroupRecord], GroupRecord]

    def get_many(self, task_ids: Iterable[str]) -> Mapping[str, TaskRecord]:
        return {task_id: self.task(record) for task_id, record in self.lookup.get_many(task_ids).items()}

    def get_group(self, group_id: str) -> GroupRecord | None:
        group = self.lookup.get_group(group_id)
        return None if group is None else self.group(group)


class Read:
    """An end whose records are translated when they are read: a source and a lookup.

    Args:
        source: returns all records.
        lookup: finds records.
        task: translates one.
        group: translates a saved group.
    """

    def __init__(
        self,
        source: Source,
        lookup: Lookup,
        task: Callable[[TaskRecord], TaskRecord],
        group: Callable[[GroupRecord], GroupRecord],
    ) -> None:
        self.source = _SeenSource(source, task, group)
        self.lookup = _SeenLookup(lookup, task, group)
