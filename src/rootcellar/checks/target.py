"""What is checked: a result store or a broker, as described by Celery's settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from celery import Celery

from rootcellar.backend import ResultBackend
from rootcellar.backend.options import store_options
from rootcellar.stores.base import StoreOptions
from rootcellar.stores.dual.opening import MIGRATE_TO, of_source, of_target
from rootcellar.stores.passwords import SETTING

#: URL schemes of brokers that speak AMQP
AMQP_SCHEMES = ("amqp", "amqps", "pyamqp")
_OPTIONS = "result_backend_transport_options"
#: a check must report an outage at once, and not wait for its end
_NO_RETRIES = {"result_backend_always_retry": False, "result_backend_max_retries": 0}


@dataclass(frozen=True, slots=True)
class Target:
    """Celery's settings, and the number of processes that will use them.

    Attributes:
        conf: Celery's settings under their own names. Holds passwords.
        processes: how many processes, of workers and of others, store and read results.
    """

    conf: Mapping[str, Any] = field(repr=False)
    processes: int

    @property
    def url(self) -> str:
        """The store's own URL."""
        return str(self.conf["result_backend"]).removeprefix("rootcellar+")

    @property
    def migrates_to(self) -> str | None:
        """The URL of the store to which results are migrated; ``None`` for no migration."""
        url = (self.conf.get(_OPTIONS) or {}).get(MIGRATE_TO)
        return None if not url else str(url).removeprefix("rootcellar+")

    def without_migration(self) -> Target:
        """Return the source of a migration alone."""
        return Target({**self.conf, _OPTIONS: of_source(self.options).transport_options}, self.processes)

    def target_of_migration(self, url: str) -> Target:
        """Return the target of a migration alone."""
        options = of_target(self.options, url)
        alone = {_OPTIONS: options.transport_options, SETTING: options.password}
        return self.elsewhere(url, **alone)

    @property
    def options(self) -> StoreOptions:
        """The options of the store besides its URL."""
        return store_options(self.app().conf)

    @property
    def is_pool_size_set(self) -> bool:
        """Whether the settings choose the size of the pool."""
        return "pool_size" in (self.conf.get("database_engine_options") or {})

    def app(self, **changes: Any) -> Celery:
        """Return a new app with these settings, for the check only."""
        app = Celery("rootcellar-check", set_as_current=False, fixups=[])
        app.conf.update({**self.conf, **_NO_RETRIES, **changes})
        return app

    def backend(self, **changes: Any) -> ResultBackend:
        """Return a new result backend, whose store is not opened yet.

        Raises:
            ConfigurationError: the settings cannot be used.
        """
        return ResultBackend(self.app(**changes), url=self.url)

    def elsewhere(self, url: str, **changes: Any) -> Target:
        """Return the same target with another result store."""
        return Target({**self.conf, "result_backend": f"rootcellar+{url}", **changes}, self.processes)


def target_of(conf: Mapping[str, Any], processes: int | None = None) -> Target:
    """Return the target that Celery's settings describe.

    Args:
        conf: the settings.
        processes: how many processes use them; by default those of one worker, and one more.
    """
    if processes is None:
        processes = int(conf.get("worker_concurrency") or os.cpu_count() or 1) + 1
    return Target(conf, processes)
