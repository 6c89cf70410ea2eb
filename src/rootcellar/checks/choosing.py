"""Chooses the checks for a target by the scheme of its URL, and imports them when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import cast

from rootcellar.checks.findings import Finding
from rootcellar.checks.steps import Checks, Step, failed
from rootcellar.checks.target import Target
from rootcellar.errors import RootcellarError
from rootcellar.urls import redact

_MODULE_BY_SCHEME = {
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
_MODULES_WITH_DRIVER = ("postgres", "redis", "mysql", "mongodb")


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
    """Return the checks of the result store. For a hybrid, the checks of its two stores come first."""
    kind = module_of(target)
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
            RedisChecks(cache, is_cache=holds_copies(target)) if module_of(cache) == "redis" else checks_for(cache)
        )
    except RootcellarError as exc:
        return [FixedFindings([failed(exc)], redact(target.url))]
    return [*parts, checks_for(target)]


def checks_for(target: Target) -> Checks:
    """Return the checks of one store. For a hybrid: of how its two stores work together."""
    module = module_of(target)
    try:
        if module in _MODULES_WITH_DRIVER:
            # raises our own error, which names the missing package
            import_module(f"rootcellar.stores.{module}")
        return cast(Checks, import_module(f"rootcellar.checks.{module}").checks(target))
    except RootcellarError as exc:
        return FixedFindings([failed(exc)], redact(target.url))


def broker_of(target: Target) -> Checks:
    """Return the checks of the broker."""
    from rootcellar.checks.broker import checks_of_broker

    try:
        return checks_of_broker(target)
    except RootcellarError as exc:
        return FixedFindings([failed(exc)], redact(str(target.conf.get("broker_url", ""))))


def is_known(scheme: str) -> bool:
    """Tell whether there are checks for the system of a URL's scheme."""
    return scheme in _MODULE_BY_SCHEME


def module_of(target: Target) -> str:
    """Return the name of the module that checks the target's system."""
    scheme = target.url.partition("://")[0].partition("+")[0].lower()
    return _MODULE_BY_SCHEME.get(scheme, "other")
