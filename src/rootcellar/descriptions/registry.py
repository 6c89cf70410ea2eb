"""All descriptions: rootcellar's own, and those of other packages."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from rootcellar.descriptions.description import BackendDescription
from rootcellar.descriptions.hybrid import HYBRID
from rootcellar.descriptions.mongodb import MONGODB
from rootcellar.descriptions.mysql import MYSQL
from rootcellar.descriptions.postgres import POSTGRES
from rootcellar.descriptions.redis import REDIS
from rootcellar.descriptions.rpc import RPC
from rootcellar.descriptions.sqlite import SQLITE
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

#: the group of entry points in which a package registers a description: the backend's name -> a BackendDescription
ENTRY_POINTS = "rootcellar.backends"
#: rootcellar's own, in the order in which users read of them
OWN = (POSTGRES, REDIS, HYBRID, MYSQL, SQLITE, MONGODB, RPC)


@cache
def backends() -> tuple[BackendDescription, ...]:
    """Return the description of each backend that can be chosen.

    A description that cannot be used is logged and left out: workers that store elsewhere must not stop for it.
    """
    found = list(OWN)
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name):
        try:
            found.append(_loaded(entry, found))
        except Exception as exc:  # the package's own code may raise any exception
            logger.warning(
                "the backend %s of the package %s cannot be used: %s: %s -> correct the package, or uninstall it",
                entry.name,
                entry.dist.name if entry.dist else "?",
                type(exc).__name__,
                exc,
            )
    return tuple(found)


def _loaded(entry: EntryPoint, others: list[BackendDescription]) -> BackendDescription:
    """Return the description of an entry point.

    Raises:
        ImportError, AttributeError, TypeError, ValueError: it cannot be used.
    """
    found = entry.load()
    if not isinstance(found, BackendDescription):
        raise TypeError(f"{entry.value} is not a BackendDescription")
    names, schemes = {found.name, *found.synonyms}, set(found.schemes)
    for other in others:
        if taken := names & {other.name, *other.synonyms} | schemes & set(other.schemes):
            raise ValueError(f"{', '.join(sorted(taken))} is taken by the backend {other.name}")
    return found


def backend_names() -> tuple[str, ...]:
    """Return the name of each backend that can be chosen."""
    return tuple(each.name for each in backends())


def names_that_keep_results() -> tuple[str, ...]:
    """Return the name of each backend whose results can be read later."""
    return tuple(each.name for each in backends() if each.keeps_results)


def one_of(names: Sequence[str]) -> str:
    """Return names for a message: ``postgres, redis or rpc``."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def backend_of_name(name: str) -> BackendDescription | None:
    """Return the backend of a name or a synonym, or ``None`` if there is none."""
    return next((each for each in backends() if name in (each.name, *each.synonyms)), None)


def backend_of_scheme(scheme: str) -> BackendDescription | None:
    """Return the backend of a URL's scheme, or ``None`` if there is none.

    Args:
        scheme: the scheme, perhaps with a driver (``postgresql+psycopg``).
    """
    first = scheme.partition("+")[0].lower()
    return next((each for each in backends() if first in each.schemes), None)


def parts_of(backend: BackendDescription) -> Iterator[BackendDescription]:
    """Yield the backends that a backend combines."""
    for name in backend.combines:
        part = backend_of_name(name)
        if part is not None:
            yield part


def with_parts(backend: BackendDescription) -> tuple[BackendDescription, ...]:
    """Return the backends that a backend combines, and then itself."""
    return (*parts_of(backend), backend)
