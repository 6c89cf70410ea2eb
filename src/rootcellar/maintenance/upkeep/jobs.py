"""When each job of maintenance succeeded last."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from rootcellar.maintenance.upkeep.part import Level, Part, Report
from rootcellar.maintenance.upkeep.words import show_ago, show_seconds
from rootcellar.stores.jobs import Job, Jobs

#: a run that has not ended after this time was probably killed
LONGEST_RUN = timedelta(days=1)


class JobsPart(Part):
    """Shows the last run of each job, of this process and of all others.

    Args:
        jobs: has them.
    """

    name = "jobs"
    action = "read the last runs of the jobs"

    def __init__(self, jobs: Jobs) -> None:
        super().__init__()
        self._jobs = jobs

    def report(self) -> Report:
        found = list(self._jobs.jobs().values())
        if not found:
            return Report(text="no job has run yet", facts={"jobs": {}})
        bad = [job for job in found if job.has_failed or is_overdue(job)]
        return Report(
            level=Level.ATTENTION if bad else Level.OK,
            text="; ".join(map(_described, found)),
            advice=tuple(f"{job.name}: {_advice(job)}" for job in bad),
            facts={"jobs": {job.name: _facts(job) for job in found}},
        )


def is_overdue(job: Job) -> bool:
    """Return whether a run has not ended for so long that its process was probably killed."""
    return job.is_open and datetime.now(timezone.utc) - job.started_at > LONGEST_RUN


def _described(job: Job) -> str:
    if is_overdue(job):
        return f"{job.name} began {show_ago(job.started_at)} and has not ended"
    if job.is_open:
        return f"{job.name} runs since {show_ago(job.started_at).removesuffix(' ago')}"
    if job.has_failed:
        return f"{job.name} failed {show_ago(job.ended_at)}, and succeeded {show_ago(job.succeeded_at)}"
    took = "" if job.seconds is None else f" in {show_seconds(job.seconds)}"
    return f"{job.name} succeeded {show_ago(job.succeeded_at)} ({job.done:,} done{took})"


def _advice(job: Job) -> str:
    if job.has_failed:
        return job.note or "see the log of the process that ran it"
    return "its process was probably killed; the next run continues its work"


def _facts(job: Job) -> dict[str, Any]:
    def text(moment: datetime | None) -> str | None:
        return None if moment is None else moment.isoformat()

    return {
        "started_at": text(job.started_at),
        "ended_at": text(job.ended_at),
        "succeeded_at": text(job.succeeded_at),
        "seconds": job.seconds,
        "done": job.done,
        "note": job.note,
    }
