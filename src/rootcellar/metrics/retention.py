"""Reads the figures of retention and maintenance: jobs, what has expired, holds, the older table, the archive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timezone

from rootcellar.history.history import History
from rootcellar.maintenance.upkeep.growth import read_forecast
from rootcellar.metrics import catalogue
from rootcellar.metrics.families import Family
from rootcellar.metrics.readings import known, label
from rootcellar.stores.archiving import Manifest
from rootcellar.stores.expiring import Due, Expiring
from rootcellar.stores.holding import Holding
from rootcellar.stores.jobs import Jobs
from rootcellar.stores.older import Older
from rootcellar.stores.upkeep import KnowsDisk

#: the most expired results that are counted, because counting all of them may take long
MOST_DUE = 10_000


def jobs(history: History) -> Iterator[Family]:
    """Yield when each job succeeded last, how long it took, and whether it failed."""
    ability = history.store.ability(Jobs)
    if ability is None:
        return
    found = {(label(job.name),): job for job in ability.jobs().values()}
    yield from known(
        {key: job.succeeded_at.timestamp() if job.succeeded_at else None for key, job in found.items()},
        catalogue.JOB_SUCCESS,
    )
    yield from known({key: job.seconds for key, job in found.items()}, catalogue.JOB_SECONDS)
    yield from known({key: float(job.has_failed) for key, job in found.items()}, catalogue.JOB_FAILED)


def due(history: History) -> Iterator[Family]:
    """Yield how many expired results the cleanup has not deleted yet."""
    expiring = history.store.ability(Expiring)
    if expiring is not None:
        found = expiring.count_expired(Due(now=datetime.now(timezone.utc), limit=MOST_DUE))
        yield Family(catalogue.EXPIRED_DUE, {(): float(found.count)})


def holds(history: History) -> Iterator[Family]:
    """Yield how many holds there are."""
    holding = history.store.ability(Holding)
    if holding is not None:
        yield Family(catalogue.HOLDS, {(): float(len(holding.holds()))})


def older(history: History) -> Iterator[Family]:
    """Yield how many partitions the older table has, and for how long results wait to be moved to it."""
    ability = history.store.ability(Older)
    if ability is None:
        return
    status = ability.status()
    if not status.is_enabled:
        yield Family(catalogue.OLDER_PARTITIONS, {(): 0.0})
        return
    yield Family(catalogue.OLDER_PARTITIONS, {(): float(len(ability.partitions()))})
    now = datetime.now(timezone.utc)
    _, first = ability.behind(now, status.window, 1)
    lag = 0.0 if first is None else (now - status.window - first).total_seconds()
    yield Family(catalogue.MOVE_LAG, {(): max(0.0, lag)})


def archive(history: History) -> Iterator[Family]:
    """Yield how many files the archive has, and their size."""
    manifest = history.store.ability(Manifest)
    if manifest is None:
        return
    files = manifest.files()
    yield Family(catalogue.ARCHIVE_FILES, {(): float(len(files))})
    yield Family(catalogue.ARCHIVE_BYTES, {(): float(sum(file.bytes for file in files))})


def forecast(limit: int | None) -> Callable[[History], Iterator[Family]]:
    """Return a function that yields after how many days the tables reach their limit.

    Args:
        limit: the most bytes of all tables; ``None`` if the user gave none.
    """

    def read(history: History) -> Iterator[Family]:
        ability = history.store.ability(Jobs)
        if ability is None:
            return
        found = read_forecast(ability, history.store.ability(KnowsDisk), limit)
        yield from known({(): found.days_left}, catalogue.FORECAST)

    return read
