"""Makes the store of an application that names a migration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlsplit

from rootcellar.errors import ConfigurationError
from rootcellar.stores.base import TRANSPORT_SETTING, Store, StoreOptions
from rootcellar.stores.dual.following import Following
from rootcellar.stores.dual.sampling import Samples
from rootcellar.stores.dual.sides import Side
from rootcellar.stores.dual.store import DualStore
from rootcellar.stores.dual.unmirrored import Unmirrored

#: the transport option with the URL of the target; the variable ROOTCELLAR_MIGRATION sets it
MIGRATE_TO = "migrate_to"
#: options that belong to the URL of the source
_OF_THE_SOURCE = ("listen_url", "durable_url", "cache_url", "mode")

Open = Callable[[str, StoreOptions | None], Store]


def open_migrating(url: str, options: StoreOptions, open_one: Open) -> Store:
    """Return the store that is migrated from ``url`` to the URL in the options.

    Args:
        url: the source.
        options: the options of both stores, and the target.
        open_one: opens a store that is not migrated.

    Raises:
        ConfigurationError: the target cannot be used.
        MigrationRefused: one of the stores cannot be migrated from or to.
    """
    target_url = str(options.transport_options[MIGRATE_TO])
    if target_url.removeprefix("rootcellar+") == url:
        raise ConfigurationError(
            "the target of the migration is the store of the results",
            where=f"{TRANSPORT_SETTING}: {MIGRATE_TO}",
            remedy="name another store, or leave it out if the migration is over (ROOTCELLAR_MIGRATION)",
        )
    source = open_one(url, of_source(options))
    target = open_one(target_url, of_target(options, target_url))
    unmirrored, samples = Unmirrored(), Samples()
    phases = Following(Side(source), Side(target), unmirrored, samples)
    return DualStore(source, target, phases, url=url, options=options, unmirrored=unmirrored, samples=samples)


def of_source(options: StoreOptions) -> StoreOptions:
    """Return the options of the source alone."""
    return _without(options, MIGRATE_TO)


def of_target(options: StoreOptions, target_url: str) -> StoreOptions:
    """Return the options of the target alone. A password in its URL takes precedence over that of the source."""
    own = _without(options, MIGRATE_TO, *_OF_THE_SOURCE)
    return replace(own, password=None) if urlsplit(target_url).password else own


def _without(options: StoreOptions, *names: str) -> StoreOptions:
    # dict() because Celery's configuration hides passwords from items()
    given = dict(options.transport_options)
    return replace(options, transport_options={name: given[name] for name in given if name not in names})
