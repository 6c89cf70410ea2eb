"""When a stored result expires: what a call, a running task, the task, the rules and the settings say."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from celery.utils.log import get_logger

from rootcellar.errors import ConfigurationError
from rootcellar.payloads.blobs import size_of_result
from rootcellar.retention.durations import read_duration
from rootcellar.retention.policy import NOT_GIVEN, RESULTS, Retention, call_expiry
from rootcellar.stores.base import Store
from rootcellar.text.escaping import visible_logs

logger = visible_logs(get_logger(__name__))

#: the header of a call, and the attribute of a task, that say how long its result is kept
HEADER = RESULTS
_WHERE = f"the header {HEADER}"


def expires(time: str | float | timedelta | None) -> dict[str, float]:
    """Return the header for a call whose result is kept for a time of its own, for ``apply_async(headers=…)``.

    ``add.apply_async((2, 3), headers=rootcellar.expires("7d"))``; other headers can be merged with ``|``.

    Args:
        time: a number of seconds, a text such as ``"7d"``, a timedelta, or 0 or ``None`` for ever.

    Raises:
        ConfigurationError: it is not a time.
    """
    return {HEADER: read_duration(time, "rootcellar.expires") or 0}


def keep(task: Any, time: str | float | timedelta | None) -> None:
    """Say in a running task how long its result is kept. This counts more than the call, the task and all rules.

    It holds for what this run stores from now on. It is not known to the worker's main process, which stores a failure
    if the child process is lost or exceeds its hard time limit, nor to a retry of the task, which must call it again.
    If a task is called as a plain function, nothing is stored, and this does nothing.

    Args:
        task: the running task: ``self`` of a bound task, else the task by its name, or ``celery.current_task``.
        time: a number of seconds, a text such as ``"90d"``, a timedelta, or 0 or ``None`` for ever.

    Raises:
        ConfigurationError: it is not a time, or ``task`` is not a task.
    """
    seconds = read_duration(time, "rootcellar.keep")
    request = getattr(task, "request", None)
    if request is None:
        raise ConfigurationError(
            f"{task!r} is not a task",
            where="rootcellar.keep",
            remedy="give self of a bound task, the task by its name, or celery.current_task",
        )
    if not request.called_directly:
        setattr(request, HEADER, seconds or 0)


def expiry_of(
    retention: Retention, now: datetime, state: str, fields: Mapping[str, Any], request: Any, task: Any
) -> datetime | None:
    """Return when a record may be deleted, or ``None`` for never.

    Args:
        retention: the rules.
        now: when it is stored.
        state: its state.
        fields: the other fields of the record: ``name``, ``queue`` and ``result``.
        request: the task's request, or ``None``.
        task: the task, or ``None`` if it is not known.
    """
    by_call = getattr(request, HEADER, NOT_GIVEN)
    if by_call is NOT_GIVEN and getattr(request, "is_eager", False):
        # Celery keeps the headers of a task that runs at once in one attribute
        by_call = (request.headers or {}).get(HEADER, NOT_GIVEN)
    if by_call is not NOT_GIVEN:
        try:
            return call_expiry(now, read_duration(by_call, _WHERE), state)
        except ConfigurationError as exc:
            logger.error("Task %s: %s. The header is ignored.", getattr(request, "id", None), exc)
    result = fields.get("result")
    size = 0 if result is None else size_of_result(result)
    return retention.expiry(now, fields.get("name"), state, fields.get("queue"), size, task)


def warn_if_nothing_archives(retention: Retention, store: Store) -> None:
    """Log a warning if a rule archives and the store cannot, because its server deletes what has expired by itself."""
    if retention.archiving() is None:
        return
    # imported late: few workers archive
    from rootcellar.stores.archiving import Manifest

    if store.ability(Manifest) is None:
        logger.warning(
            'A rule of result_retention says "then": "archive", but %s archives nothing: its server deletes each '
            "result when it expires. Use PostgreSQL, MySQL, MariaDB or SQLite, alone or behind Redis, or change the "
            "rule to delete.",
            store.where,
        )
