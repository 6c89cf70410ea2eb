"""Measures a server, and judges the figures by the same rules for all servers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from datetime import datetime, timezone

from rootcellar.checks.findings import Finding
from rootcellar.checks.steps import passed, problem

#: a larger difference between two clocks is a warning
MAX_CLOCK_SKEW_SECONDS = 2.0


def milliseconds(seconds: float) -> str:
    """Return a duration as a readable text in milliseconds."""
    span = seconds * 1000
    return f"{span:.1f} ms" if span < 10 else f"{span:.0f} ms"


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long ``work`` takes."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


def spread(spans: list[float]) -> str:
    """Return the median and the 95th percentile of durations (in seconds) as a readable text."""
    ordered = sorted(spans)
    p95 = ordered[round(0.95 * (len(ordered) - 1))]
    return f"p50 {milliseconds(statistics.median(ordered))} p95 {milliseconds(p95)}"


def judge_clock(ask: Callable[[], datetime]) -> Finding:
    """Compare a server's clock with ours. ``ask`` returns the server's time as an aware datetime."""
    before = datetime.now(timezone.utc)
    theirs = ask()
    after = datetime.now(timezone.utc)
    skew = (theirs - before - (after - before) / 2).total_seconds()
    doubt = (after - before).total_seconds() / 2
    if abs(skew) - doubt <= MAX_CLOCK_SKEW_SECONDS:
        return passed("the same time as here" if abs(skew) < 1 else f"{abs(skew):.1f} s of difference")
    return problem("clock-skew", f"the server's clock is {_span(abs(skew))} {'ahead' if skew > 0 else 'behind'}")


def judge_connections(kind: str, room: int, processes: int, pool: int, is_pool_size_set: bool) -> Finding:
    """Compare the connections that a server accepts with those that the workers may open.

    Args:
        kind: the beginning of the problems' names.
        room: how many connections the server has left for us.
        processes: how many processes there will be.
        pool: the maximum of connections of each process.
        is_pool_size_set: whether the settings choose ``pool``. The default is more than a process normally uses.
    """
    wanted = f"{processes} processes x pool of {pool} = {processes * pool}, the server has room for {room}"
    if processes > room:
        return problem(f"{kind}-too-few-connections", f"{processes} processes, the server has room for {room}")
    if is_pool_size_set and processes * pool > room:
        return problem(f"{kind}-connections", wanted)
    return passed(wanted if processes * pool <= room else f"room for {room}; {processes} processes use one or two each")


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.0f} h"
