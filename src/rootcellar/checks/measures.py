"""Measuring, and judging what was measured alike for every server."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from datetime import datetime, timezone

from rootcellar.checks.findings import Finding
from rootcellar.checks.steps import ok, wrong

#: seconds by which clocks may differ
SKEW = 2.0


def milliseconds(seconds: float) -> str:
    """Return a span in milliseconds, for people."""
    span = seconds * 1000
    return f"{span:.1f} ms" if span < 10 else f"{span:.0f} ms"


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long ``work`` takes."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


def spread(spans: list[float]) -> str:
    """Return the median and the 95th percentile of some seconds, for people."""
    ordered = sorted(spans)
    p95 = ordered[round(0.95 * (len(ordered) - 1))]
    return f"p50 {milliseconds(statistics.median(ordered))} p95 {milliseconds(p95)}"


def judge_clock(ask: Callable[[], datetime]) -> Finding:
    """Compare a server's clock with ours; ``ask`` returns its time, aware."""
    before = datetime.now(timezone.utc)
    theirs = ask()
    after = datetime.now(timezone.utc)
    skew = (theirs - before - (after - before) / 2).total_seconds()
    doubt = (after - before).total_seconds() / 2
    if abs(skew) - doubt <= SKEW:
        return ok("the same time as here" if abs(skew) < 1 else f"{abs(skew):.1f} s off")
    return wrong("clock-skew", f"the server's clock is {_span(abs(skew))} {'ahead' if skew > 0 else 'behind'}")


def judge_connections(kind: str, room: int, processes: int, pool: int, is_pool_told: bool) -> Finding:
    """Compare what a server takes with what workers may want.

    Args:
        kind: the beginning of the problems' names.
        room: how many connections the server has for us.
        processes: how many processes there will be.
        pool: the most connections of each.
        is_pool_told: whether somebody chose that; by default it is more than any process uses.
    """
    wanted = f"{processes} processes x pool of {pool} = {processes * pool}, the server has room for {room}"
    if processes > room:
        return wrong(f"{kind}-too-few-connections", f"{processes} processes, the server has room for {room}")
    if is_pool_told and processes * pool > room:
        return wrong(f"{kind}-connections", wanted)
    return ok(wanted if processes * pool <= room else f"room for {room}; {processes} processes use one or two each")


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.0f} h"
