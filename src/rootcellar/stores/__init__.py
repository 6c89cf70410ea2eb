"""The stores, and :func:`open_store`, which returns the store of a URL."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

from rootcellar.errors import ConfigurationError, UnknownScheme
from rootcellar.stores.base import Store, StoreOptions

#: the group of entry points in which a package registers a store: the scheme, and a class or function that opens it
ENTRY_POINTS = "rootcellar.stores"

__all__ = ["ENTRY_POINTS", "Store", "StoreOptions", "open_store", "schemes"]


def schemes() -> list[str]:
    """Return the schemes for which a store is registered."""
    return sorted({entry.name for entry in entry_points(group=ENTRY_POINTS)})


def _remedy(scheme: str) -> str:
    """Return the remedy for a scheme without a store."""
    meant = scheme.removeprefix("db+").partition("+")[0].lower()
    if scheme.startswith("db+") and meant in schemes():
        return f"write rootcellar+{meant}:// instead: URLs that begin with db+ are for Celery's own backend"
    return f"use one of {', '.join(schemes())}"


def open_store(url: str, options: StoreOptions | None = None) -> Store:
    """Return the store for a URL, with or without ``rootcellar+`` before it. Connects at its first use.

    If the transport options name a target (``migrate_to``), it is a store that is migrated to that target.

    Raises:
        UnknownScheme: no store is registered for the scheme.
        ConfigurationError: the URL cannot be used.
        DriverMissing: a Python package is not installed.
        MigrationRefused: the store or its target cannot be migrated from or to.
    """
    url = url.removeprefix("rootcellar+")
    scheme, separator, _ = url.partition("://")
    if not separator or ":" in scheme:
        raise ConfigurationError(
            # the rest may contain a password
            f"not a URL: {url.partition(':')[0]!r}",
            where="result_backend",
            remedy="write rootcellar+postgresql://user:password@host/database or rootcellar+sqlite:///path",
        )
    # SQLAlchemy writes a driver after the plus; it is ignored, because each store has one driver
    name = scheme.partition("+")[0].lower()
    found = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    if name not in found:
        raise UnknownScheme(
            f"there is no store for {scheme}://",
            where="result_backend",
            remedy=_remedy(scheme),
        )
    if options is not None and options.transport_options.get("migrate_to"):
        # imported late: few processes migrate
        from rootcellar.stores.dual.opening import open_migrating

        return open_migrating(url, options, open_store)
    make: Callable[[str, StoreOptions | None], Store] = found[name].load()
    return make(url, options)
