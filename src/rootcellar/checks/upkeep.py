"""Checks what `rootcellar maintain` looks after: vacuum and what holds it back, invalid indexes, the room on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

from rootcellar.checks.findings import Finding
from rootcellar.checks.steps import failed, passed, problem
from rootcellar.errors import ConfigurationError
from rootcellar.maintenance.upkeep.growth import DISK_VARIABLE, Forecast, read_forecast
from rootcellar.maintenance.upkeep.vacuum import HoldersConfig, describe_holder, remedy_for, without_autovacuum
from rootcellar.maintenance.upkeep.words import listed, number_of, read_bytes, show_bytes
from rootcellar.stores.jobs import Jobs
from rootcellar.stores.older import Older
from rootcellar.stores.sql.store import SqlStore
from rootcellar.stores.upkeep import KnowsDisk, Vacuums

#: a partition is dropped within minutes, unless nobody may do it, or it is in use
DROPPED_WITHIN = timedelta(days=2)


def upkeep_of(store: SqlStore[Any]) -> Iterator[Finding]:
    """Yield what is wrong; one finding that nothing is, otherwise.

    Args:
        store: the store. Its tables may not exist yet.
    """
    if not store.schema.status().is_complete:
        yield passed("nothing to look after yet")
        return
    found = [*_vacuum(store), *_partitions(store), *_disk(store)]
    yield from found or [passed("nothing is due; `rootcellar maintain` says more")]


def _vacuum(store: SqlStore[Any]) -> Iterator[Finding]:
    vacuums = store.ability(Vacuums)
    if vacuums is None:
        return
    for holder in vacuums.vacuum_holders(HoldersConfig().transaction_age).found:
        yield problem("vacuum-held-back", describe_holder(holder), remedy_for(holder))
    if off := without_autovacuum(vacuums.vacuum_states()):
        yield problem("autovacuum-off", off)
    if invalid := [index.index for index in vacuums.invalid_indexes() if not index.is_busy]:
        yield problem(
            "index-invalid", f"{number_of(len(invalid), 'invalid index', 'invalid indexes')}: {listed(invalid)}"
        )


def _partitions(store: SqlStore[Any]) -> Iterator[Finding]:
    older = store.ability(Older)
    if older is None or not older.status().is_enabled:
        return
    latest = datetime.now(timezone.utc).date() - DROPPED_WITHIN
    if late := [each.name for each in older.partitions() if each.until is not None and each.until <= latest]:
        yield problem("partition-passed", listed(late))


def _disk(store: SqlStore[Any]) -> Iterator[Finding]:
    jobs = store.ability(Jobs)
    if jobs is None:
        return
    try:
        limit = _limit()
    except ConfigurationError as exc:
        yield failed(exc)
        return
    forecast = read_forecast(jobs, store.ability(KnowsDisk), limit)
    if forecast.is_soon:
        yield problem("disk-full-soon", _sentence(forecast))


def _limit() -> int | None:
    """Return the most bytes of all tables, if the environment has it.

    Raises:
        ConfigurationError: it is not a size.
    """
    text = os.environ.get(DISK_VARIABLE)
    if not text:
        return None
    try:
        return read_bytes(text)
    except ValueError as exc:
        raise ConfigurationError(str(exc), where=DISK_VARIABLE, remedy="write 100GB, 800MB or bytes") from exc


def _sentence(forecast: Forecast) -> str:
    return (
        f"{show_bytes(forecast.bytes or 0)} of {show_bytes(forecast.limit or 0)}, and "
        f"{show_bytes(forecast.bytes_a_day or 0)} more a day: full in {number_of(int(forecast.days_left or 0), 'day')}"
    )
