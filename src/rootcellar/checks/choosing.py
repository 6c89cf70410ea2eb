"""Chooses the checks for a target by the scheme of its URL, and imports them when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import cast

from rootcellar.checks.findings import Finding
from rootcellar.checks.steps import Checks, Step, failed
from rootcellar.checks.target import Target
from rootcellar.descriptions import BackendDescription, backend_of_scheme
from rootcellar.errors import RootcellarError
from rootcellar.stores import open_store
from rootcellar.urls import redact

#: the checks of a store without a description
_OTHER = "rootcellar.checks.other"


class FixedFindings(Checks):
    """Findings that need no server, such as settings that cannot be used."""

    def __init__(self, problems: Sequence[Finding], where: str) -> None:
        self._problems = problems
        self._where = where

    @property
    def where(self) -> str:
        return self._where

    def steps(self) -> Sequence[Step]:
        return [Step("settings", lambda: self._problems, stops_on_failure=True)]

    def close(self) -> None:
        """There is nothing to close."""


def sections_for(target: Target) -> list[Checks]:
    """Return the checks of the result store. For a hybrid, the checks of its two stores come first.

    In a migration, both of its stores are checked.
    """
    if (url := target.migrates_to) is not None:
        try:
            ends = target.without_migration(), target.target_of_migration(url)
            # whether each of them can be part of a migration
            open_store(target.url, target.options).close()
        except RootcellarError as exc:
            return [FixedFindings([failed(exc)], f"{redact(target.url)} -> {redact(url)}")]
        return [checks for end in ends for checks in sections_for(end)]
    backend = _backend_of(target)
    if backend is not None and backend.broker:
        return [*([broker_of(target)] if target.conf.get("broker_url") else []), checks_for(target)]
    if backend is None or backend.name != "hybrid":
        return [checks_for(target)]
    # imported late, as every system is
    from rootcellar.checks.hybrid import holds_copies, parts_of
    from rootcellar.checks.redis import RedisChecks

    try:
        durable, cache = parts_of(target)
        kind = _backend_of(cache)
        is_redis = kind is not None and kind.name == "redis"
        parts = [checks_for(durable)]
        parts.append(RedisChecks(cache, is_cache=holds_copies(target)) if is_redis else checks_for(cache))
    except RootcellarError as exc:
        return [FixedFindings([failed(exc)], redact(target.url))]
    return [*parts, checks_for(target)]


def checks_for(target: Target) -> Checks:
    """Return the checks of one store. For a hybrid: of how its two stores work together."""
    backend = _backend_of(target)
    try:
        if backend is not None and backend.driver:
            # raises our own error, which names the missing package
            import_module(backend.store)
        return cast(Checks, import_module(backend.checks if backend is not None else _OTHER).checks(target))
    except RootcellarError as exc:
        return FixedFindings([failed(exc)], redact(target.url))


def broker_of(target: Target) -> Checks:
    """Return the checks of the broker."""
    from rootcellar.checks.broker import checks_of_broker

    try:
        return checks_of_broker(target)
    except RootcellarError as exc:
        return FixedFindings([failed(exc)], redact(str(target.conf.get("broker_url", ""))))


def _backend_of(target: Target) -> BackendDescription | None:
    """Return the description of the target's backend."""
    return backend_of_scheme(target.url.partition("://")[0])
