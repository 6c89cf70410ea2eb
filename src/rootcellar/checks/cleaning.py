"""Checks that expired results are deleted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from rootcellar.checks.findings import Finding
from rootcellar.checks.steps import passed, problem
from rootcellar.maintenance.cleanup import JOB, overdue_since
from rootcellar.payloads.settings import value_of
from rootcellar.retention.policy import read_retention
from rootcellar.stores.base import Store
from rootcellar.stores.jobs import Jobs

#: how long a cleanup may be missing
LONGEST = timedelta(days=2)


def cleaning_of(store: Store, conf: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what is wrong with the cleanup of a store that keeps jobs, or when it ran last.

    Args:
        store: the store; it is only read.
        conf: Celery's settings.
    """
    if read_retention(conf).archiving() is not None and value_of(conf, "result_archive")[0] is None:
        yield problem("archive-missing", "a rule says archive, and result_archive is not set")
    since = overdue_since(store, LONGEST)
    if since is not None:
        yield problem("cleanup-missing", _overdue(store, since))
        return
    last = _last(store)
    yield passed("nothing is due" if last is None else f"the last one was {_ago(last)} ago")


def _last(store: Store) -> datetime | None:
    jobs = store.ability(Jobs)
    job = None if jobs is None else jobs.jobs().get(JOB)
    return None if job is None else job.succeeded_at


def _overdue(store: Store, since: datetime) -> str:
    if _last(store) is None:
        return f"there was none, and a result that expired {_ago(since)} ago is still stored"
    return f"the last one was {_ago(since)} ago, and results that expired before are still stored"


def _ago(moment: datetime) -> str:
    """Return how long ago a moment was, in words."""
    seconds = max(0.0, (datetime.now(timezone.utc) - moment).total_seconds())
    for size, name in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count:,} {name}{'' if count == 1 else 's'}"
    return "less than a minute"
