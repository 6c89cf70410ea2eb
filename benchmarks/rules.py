"""``python -m benchmarks.rules``: what it costs to decide when a result expires, in one process, without a server."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from statistics import median
from typing import Any

from celery import Celery
from celery.app.task import Context

from rootcellar.backend.retaining import expiry_of
from rootcellar.records import Payload
from rootcellar.retention.policy import Facts, Retention
from rootcellar.retention.rules import read_rules

TIMES, ROUNDS = 20_000, 9
DAY = 86_400.0
#: rules as a large application may have them; none of the first ones matches
RULES = [
    *({"task": f"module{number}.*", "state": "FAILURE", "keep": f"{number + 1}d"} for number in range(18)),
    {"task": "benchmarks.*", "larger_than": "1MB", "keep": "1d"},
    {"task": "benchmarks.*", "queue": "cel*", "keep": "30d"},
]


def main() -> int:
    """Print the table; return the exit status."""
    print("\n".join(table(measure())))
    return 0


def table(found: Mapping[str, float]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield "| what | µs |"
    yield "|---|---|"
    for name, microseconds in found.items():
        yield f"| {name} | {microseconds:.2f} |"


def measure() -> dict[str, float]:
    """Return the microseconds that each way takes, medians of interleaved rounds."""
    ways = _ways()
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, work in ways.items():
            found[name].append(_time(work))
    return {name: median(times) for name, times in found.items()}


def _time(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    for _ in range(TIMES):
        work()
    return (time.perf_counter() - started) / TIMES * 1e6


def _ways() -> dict[str, Callable[[], object]]:
    app = Celery("benchmarks", set_as_current=False)
    task = app.task(name="benchmarks.bake", shared=False)(_bake)
    now = datetime.now(timezone.utc)
    plain, ruled = Retention(DAY), Retention(DAY, rules=read_rules(RULES))
    about: dict[str, Any] = {"task": "benchmarks.bake", "delivery_info": {"routing_key": "celery"}}
    request, by_call = Context(about), Context(about, result_expires=604_800.0)
    fields = {"name": "benchmarks.bake", "queue": "celery", "result": Payload(b"x" * 100)}
    facts = Facts(state="SUCCESS", name="benchmarks.bake", queue="celery", size=100)
    return {
        "add a day to a date": lambda: now + timedelta(seconds=DAY),
        "settings only": lambda: expiry_of(plain, now, "SUCCESS", fields, request, task),
        "20 rules": lambda: expiry_of(ruled, now, "SUCCESS", fields, request, task),
        "20 rules, the call says how long": lambda: expiry_of(ruled, now, "SUCCESS", fields, by_call, task),
        "20 rules, not remembered (once for each task, state and queue)": lambda: ruled.decide(facts),
    }


def _bake() -> None: ...


if __name__ == "__main__":
    sys.exit(main())
