"""Maintenance by Celery's beat, for those who prefer it: the schedule, and the task that it sends."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from typing import Any

from celery import shared_task
from celery.utils.log import get_logger

from rootcellar.errors import ConfigurationError
from rootcellar.retention.durations import read_duration
from rootcellar.text.escaping import visible_logs

logger = visible_logs(get_logger(__name__))

#: the task of Celery that cleans up, and ours
CLEANUP, MAINTAIN = "celery.backend_cleanup", "rootcellar.maintain"


def beat_schedule(
    *,
    cleanup: str | float | timedelta | None = "1h",
    maintain: str | float | timedelta | None = "1d",
) -> dict[str, dict[str, Any]]:
    """Return the entries of ``beat_schedule`` that look after the store, and register the task ``rootcellar.maintain``.

    Call it in the module of the app, so that workers have the task, too::

        app.conf.beat_schedule = {**rootcellar.beat_schedule(), "report": {…}}

    ``celery.backend_cleanup`` deletes what has expired. ``rootcellar.maintain`` does what ``rootcellar maintain
    --apply`` does, with the rights of the worker that runs it, and returns what each part says. An entry that no worker
    takes before the next one is sent expires.

    Args:
        cleanup: the time between two cleanups: a number of seconds, a text such as ``"1h"``, or a timedelta; 0 or
            ``None`` for none. Workers also clean up by themselves, unless ``cleanup_interval`` is 0.
        maintain: the same for the maintenance.

    Raises:
        ConfigurationError: it is not a time.
    """
    _register()
    times = {
        CLEANUP: read_duration(cleanup, "beat_schedule(cleanup=…)"),
        MAINTAIN: read_duration(maintain, "beat_schedule(maintain=…)"),
    }
    # Celery adds no entry of its own for the cleanup if there is one of this name
    return {
        name: {"task": name, "schedule": timedelta(seconds=seconds), "options": {"expires": seconds}}
        for name, seconds in times.items()
        if seconds
    }


@cache
def _register() -> None:
    """Give the task to every app of this process, once."""
    # bound, because the current app of the process may be another one
    shared_task(name=MAINTAIN, acks_late=False, bind=True)(_maintain)


def _maintain(task: Any) -> list[dict[str, Any]]:
    """Look after the tables of the app's store; return what each part says."""
    # imported late: a worker loads it only when the task runs
    from rootcellar.maintenance.upkeep.part import Level, Report
    from rootcellar.maintenance.upkeep.parts import Owner, parts_of
    from rootcellar.maintenance.upkeep.upkeep import Upkeep

    def log(report: Report) -> None:
        write = logger.info if report.level is Level.OK else logger.warning
        write("Maintenance, %s: %s%s", report.part, report.text, "".join(f" -> {each}" for each in report.advice))

    backend: Any = task.app.backend
    if not hasattr(backend, "store"):
        raise ConfigurationError(
            "the app has another result backend than rootcellar's",
            where=MAINTAIN,
            remedy="set result_backend to a URL that begins with rootcellar+, or take the entry out of beat_schedule",
        )
    owner = Owner(codec=backend.codec, conf=backend.app.conf, sweep_chords=backend.chords.sweep)
    upkeep = Upkeep(backend.store, parts_of(backend.store, owner), on_report=log)
    upkeep.run_once()
    return [
        {"part": report.part, "level": report.level.value, "text": report.text, "done": report.done}
        for report in upkeep.reports
    ]
