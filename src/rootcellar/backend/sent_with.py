"""How a task was sent: what no other field of its record contains, so that a failed task can be sent again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rootcellar.backend import lifecycle

#: headers of a trace: the new run of a task is part of another one
_OF_A_TRACE = (
    "traceparent",
    "tracestate",
    "baggage",
    "sentry-",
    "x-datadog-",
    "_dd",
    "newrelic",
    "x-b3-",
    "uber-trace-",
)
#: headers that Celery, rootcellar and the broker add, which :class:`celery.app.task.Context` does not know
_OF_THE_MESSAGE = frozenset({lifecycle.SENT_AT, lifecycle.STARTED_AT, "compression", "redelivered", "x-death"})


def sent_with(request: Any) -> dict[str, Any]:
    """Return how a task was sent; empty for a plain task that was sent to a queue.

    ``exchange``, ``priority`` and ``headers`` are those of the message, if it has any. ``chord`` means that the task
    is part of a chord, and ``followed`` that other tasks would be sent after its success.
    """
    found: dict[str, Any] = {}
    delivery = getattr(request, "delivery_info", None)
    if isinstance(delivery, Mapping):
        exchange, key, priority = delivery.get("exchange"), delivery.get("routing_key"), delivery.get("priority")
        if isinstance(exchange, str) and exchange not in ("", key):
            found["exchange"] = exchange
        if isinstance(priority, int) and priority:
            found["priority"] = priority
    headers = getattr(request, "headers", None)
    if isinstance(headers, Mapping) and (own := {name: headers[name] for name in headers if _is_own(name)}):
        found["headers"] = own
    if getattr(request, "chord", None):
        found["chord"] = True
    if getattr(request, "chain", None) or getattr(request, "callbacks", None):
        found["followed"] = True
    return found


def _is_own(name: Any) -> bool:
    """Return whether the application added a header."""
    return isinstance(name, str) and name not in _OF_THE_MESSAGE and not name.lower().startswith(_OF_A_TRACE)
