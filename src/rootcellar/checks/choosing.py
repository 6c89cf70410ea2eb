"""Which checks there are for a target: by the scheme of its URL, imported when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import cast

from rootcellar.checks.findings import Finding
from rootcellar.checks.steps import Checks, Step, failed
from rootcellar.checks.target import Target
from rootcellar.errors import RootcellarError
from rootcellar.urls import redact

_ROOMS = {
    "postgresql": "postgres",
    "postgres": "postgres",
    "redis": "redis",
    "rediss": "redis",
    "unix": "redis",
    "socket": "redis",
    "sentinel": "redis",
    "redis-cluster": "redis",
    "rediss-cluster": "redis",
    "mysql": "mysql",
    "mariadb": "mysql",
    "sqlite": "sqlite",
    "mongodb": "mongodb",
    "hybrid": "hybrid",
    "rootcellar-rpc": "rpc",
    "rpc": "rpc",
}
#: systems whose stores need a package that may not be installed
_WITH_DRIVER = ("postgres", "redis", "mysql", "mongodb")


class Notification(Checks):
    """What is known of a target's settings without a look at its server, such as that they cannot be used."""

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
    """Return the checks of the place where results are kept; of a hybrid, those of both stores before."""
    kind = room_of(target)
    if kind == "rpc":
        return [*([broker_of(target)] if target.conf.get("broker_url") else []), checks_for(target)]
    if kind != "hybrid":
        return [checks_for(target)]
    # imported late, as every system is
    from rootcellar.checks.hybrid import holds_copies, parts_of
    from rootcellar.checks.redis import RedisChecks

    try:
        durable, cache = parts_of(target)
        parts = [checks_for(durable)]
        parts.append(
            RedisChecks(cache, is_cache=holds_copies(target)) if room_of(cache) == "redis" else checks_for(cache)
        )
    except RootcellarError as exc:
        return [Notification([failed(exc)], redact(target.url))]
    return [*parts, checks_for(target)]


def checks_for(target: Target) -> Checks:
    """Return the checks of a store, or of the work of those that it is made of."""
    room = room_of(target)
    try:
        if room in _WITH_DRIVER:
            # it says in our words which package is missing
            import_module(f"rootcellar.stores.{room}")
        return cast(Checks, import_module(f"rootcellar.checks.{room}").checks(target))
    except RootcellarError as exc:
        return Notification([failed(exc)], redact(target.url))


def broker_of(target: Target) -> Checks:
    """Return the checks of the broker."""
    from rootcellar.checks.broker import checks_of_broker

    try:
        return checks_of_broker(target)
    except RootcellarError as exc:
        return Notification([failed(exc)], redact(str(target.conf.get("broker_url", ""))))


def is_known(scheme: str) -> bool:
    """Tell whether there are checks for the system of a URL's scheme."""
    return scheme in _ROOMS


def room_of(target: Target) -> str:
    """Return the name of the module that knows the system."""
    scheme = target.url.partition("://")[0].partition("+")[0].lower()
    return _ROOMS.get(scheme, "other")
