"""Join groups and run chords: the time from sending them to their results."""

from __future__ import annotations

import time

from celery import chord, group

from benchmarks import processes
from benchmarks.app import make_app
from benchmarks.bed import Place
from benchmarks.contenders import CELERY_DB, CELERY_REDIS, POSTGRES, SQLITE, Contender
from benchmarks.processes import PATIENCE
from benchmarks.rows.experiment import Experiment, Figures, check
from benchmarks.sizes import Sizes


def experiments(sizes: Sizes) -> list[Experiment]:
    slow = {CELERY_DB.column: 1}
    return [
        Experiment(
            "group",
            {"group": f"group of {sizes.group:,}, sent and joined (s)"},
            (POSTGRES, SQLITE, CELERY_REDIS, CELERY_DB),
            _group,
            has_worker=True,
            rounds_of=slow,
        ),
        Experiment(
            "large_group",
            {"large_group": f"group of {sizes.large_group:,}, sent and joined (s)"},
            (POSTGRES, SQLITE, CELERY_REDIS),
            _large_group,
            has_worker=True,
            most_rounds=3,
        ),
        Experiment(
            "chord",
            {
                "chord": f"chord of {sizes.chord:,}, start to result (s)",
                "chord_part": f"the same, for each of {sizes.chord:,} parts (ms)",
            },
            (POSTGRES, SQLITE, CELERY_REDIS, CELERY_DB),
            _chord,
            has_worker=True,
            rounds_of=slow,
        ),
        Experiment(
            "large_chord",
            {
                "large_chord": f"chord of {sizes.large_chord:,}, start to result (s)",
                "large_chord_part": f"the same, for each of {sizes.large_chord:,} parts (ms)",
            },
            (POSTGRES, SQLITE, CELERY_REDIS),
            _large_chord,
            has_worker=True,
            most_rounds=3,
        ),
    ]


def _group(place: Place, contender: Contender, sizes: Sizes) -> Figures:
    return {"group": processes.call(_join, contender, place, sizes.group)}


def _large_group(place: Place, contender: Contender, sizes: Sizes) -> Figures:
    return {"large_group": processes.call(_join, contender, place, sizes.large_group)}


def _chord(place: Place, contender: Contender, sizes: Sizes) -> Figures:
    seconds = processes.call(_count, contender, place, sizes.chord)
    return {"chord": seconds, "chord_part": seconds / sizes.chord * 1e3}


def _large_chord(place: Place, contender: Contender, sizes: Sizes) -> Figures:
    seconds = processes.call(_count, contender, place, sizes.large_chord)
    return {"large_chord": seconds, "large_chord_part": seconds / sizes.large_chord * 1e3}


def _join(contender: Contender, place: Place, size: int) -> float:
    """Return the seconds that a group takes."""
    app = make_app(place.broker, contender.backend_url(place.url))
    echo = app.tasks["echo"]
    echo.delay(None).get(timeout=PATIENCE)
    started = time.perf_counter()
    values = group([echo.s(number) for number in range(size)]).apply_async().get(timeout=PATIENCE)
    took = time.perf_counter() - started
    check(values, list(range(size)), f"a group of {size}")
    return took


def _count(contender: Contender, place: Place, size: int) -> float:
    """Return the seconds that a chord takes."""
    app = make_app(place.broker, contender.backend_url(place.url))
    echo, total = app.tasks["echo"], app.tasks["total"]
    echo.delay(None).get(timeout=PATIENCE)
    started = time.perf_counter()
    value = chord([echo.s(number) for number in range(size)])(total.s()).get(timeout=PATIENCE)
    took = time.perf_counter() - started
    check(value, sum(range(size)), f"a chord of {size}")
    return took
