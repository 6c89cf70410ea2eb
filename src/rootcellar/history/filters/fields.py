"""The fields that a filter can name."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What the values of a field are."""

    STATE = "state"
    PATTERN = "pattern"
    TEXT = "text"
    NUMBER = "number"
    DURATION = "length of time"
    SIZE = "number of bytes"
    MOMENT = "moment"
    TIMES = "moment or range"
    GROUP = "group of failures"
    JSON = "value"
    WORD = "property"
    SORT = "order"


@dataclass(frozen=True, slots=True)
class FieldType:
    """A field that a filter can name.

    Attributes:
        name: its name.
        kind: what its values are.
        title: what it is, for the sentence of a filter and for help.
        example: a value.
        words: the only values of a field of the kind ``WORD`` or ``SORT``.
    """

    name: str
    kind: Kind
    title: str
    example: str
    words: tuple[str, ...] = ()


#: groups of states, each under a name of its own
STATE_GROUPS: dict[str, tuple[str, ...]] = {
    "failed": ("FAILURE",),
    "succeeded": ("SUCCESS",),
    "running": ("STARTED",),
    "done": ("SUCCESS", "FAILURE", "REVOKED"),
    "unfinished": ("SUCCESS", "FAILURE", "REVOKED"),
}

FIELDS: dict[str, FieldType] = {
    each.name: each
    for each in (
        FieldType("state", Kind.STATE, "state", "failed"),
        FieldType("task", Kind.PATTERN, "name", "reports.*"),
        FieldType("queue", Kind.PATTERN, "queue", "low"),
        FieldType("worker", Kind.PATTERN, "worker", "celery@web*"),
        FieldType("id", Kind.PATTERN, "id", "0b5c5f9e*"),
        FieldType("group", Kind.PATTERN, "group id", "7c1f0a*"),
        FieldType("root", Kind.PATTERN, "root id", "7c1f0a*"),
        FieldType("parent", Kind.PATTERN, "parent id", "7c1f0a*"),
        FieldType("error", Kind.PATTERN, "error", "Timeout*"),
        FieldType("failure", Kind.GROUP, "group of failures", "7K2Q9XMD"),
        FieldType(
            "is", Kind.WORD, "property", "retried", ("child", "damaged", "encrypted", "late", "retried", "stuck")
        ),
        FieldType("has", Kind.WORD, "stored part", "traceback", ("args", "children", "result", "stamps", "traceback")),
        FieldType("retries", Kind.NUMBER, "number of retries", ">2"),
        FieldType("runtime", Kind.DURATION, "runtime", ">30s"),
        FieldType("wait", Kind.DURATION, "wait", ">5m"),
        FieldType("total", Kind.DURATION, "total time", "1m..10m"),
        FieldType("size", Kind.SIZE, "result size", ">1MB"),
        FieldType("since", Kind.MOMENT, "at or after", "24h"),
        FieldType("until", Kind.MOMENT, "before", "yesterday"),
        FieldType("sent", Kind.TIMES, "sent", "2026-11-01"),
        FieldType("started", Kind.TIMES, "started", ">9:00"),
        FieldType("done", Kind.TIMES, "ended", "2026-11-01..2026-11-07"),
        FieldType("expires", Kind.TIMES, "kept until", "<7d"),
        FieldType("args", Kind.JSON, "arguments", "order_id:123"),
        FieldType("kwargs", Kind.JSON, "keyword arguments", "format:a3"),
        FieldType("result", Kind.JSON, "result", "total:>100"),
        FieldType("stamp", Kind.JSON, "stamp", "customer:17"),
        FieldType("sort", Kind.SORT, "order", "-runtime", ("done", "runtime", "wait", "retries")),
    )
}
#: properties that a record does not show alone: they are looked up before a search, see rootcellar.history.stuck
LOOKED_UP = ("late", "stuck")
#: a field under another one, with a kind of its own
MESSAGE = FieldType("error.message", Kind.TEXT, "error message", "timed out")
