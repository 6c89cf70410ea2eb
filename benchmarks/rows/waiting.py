"""Wait for a task: from the end of its body to the return of ``get``."""

from __future__ import annotations

import time
from statistics import quantiles

from benchmarks import processes
from benchmarks.app import make_app
from benchmarks.bed import Place
from benchmarks.contenders import CELERY_DB, CELERY_REDIS, POSTGRES, REDIS, SQLITE, Contender
from benchmarks.processes import PATIENCE
from benchmarks.rows.experiment import Experiment, Figures, check
from benchmarks.sizes import Sizes

#: seconds that a task sleeps
NAP = 0.1


def experiments(sizes: Sizes) -> list[Experiment]:
    return [
        Experiment(
            "latency",
            {
                "latency_p50": "wait for a task of 100 ms, from the end of its body, p50 (ms)",
                "latency_p99": f"the same, p99 of {sizes.naps} (ms)",
            },
            (POSTGRES, SQLITE, REDIS, CELERY_REDIS, CELERY_DB),
            _latency,
            has_worker=True,
            rounds_of={CELERY_DB.column: 2},
        )
    ]


def _latency(place: Place, contender: Contender, sizes: Sizes) -> Figures:
    naps = processes.call(_waits, contender, place, sizes.naps)
    cuts = quantiles(naps, n=100, method="inclusive")
    return {"latency_p50": cuts[49] * 1e3, "latency_p99": cuts[98] * 1e3}


def _waits(contender: Contender, place: Place, naps: int) -> list[float]:
    """Return the seconds from the end of each task's body to the end of the wait."""
    app = make_app(place.broker, contender.backend_url(place.url))
    nap = app.tasks["nap"]
    nap.delay(0).get(timeout=PATIENCE)
    waits = []
    for _ in range(naps):
        sent_at = time.time()
        ended_at = nap.delay(NAP).get(timeout=PATIENCE)
        waits.append(time.time() - ended_at)
        check(ended_at - sent_at >= NAP, True, "the moment at which the task ended")
    return waits
