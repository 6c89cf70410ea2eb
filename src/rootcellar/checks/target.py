"""What is checked: a place for results or a broker, as Celery's settings say it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from celery import Celery

from rootcellar.backend import ResultBackend
from rootcellar.backend.options import store_options
from rootcellar.errors import ConfigurationError
from rootcellar.stores.base import StoreOptions

#: what would keep a check waiting in an outage, which it is there to tell
_AT_ONCE = {"result_backend_always_retry": False, "result_backend_max_retries": 0}


@dataclass(frozen=True, slots=True)
class Target:
    """Celery's settings, and how many will use them.

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
    def options(self) -> StoreOptions:
        """What the store is told beside its URL."""
        return store_options(self.app().conf)

    @property
    def is_pool_told(self) -> bool:
        """Whether somebody chose the size of the pool."""
        return "pool_size" in (self.conf.get("database_engine_options") or {})

    def app(self, **changes: Any) -> Celery:
        """Return an app with these settings, which nothing but the check uses."""
        app = Celery("rootcellar-check", set_as_current=False, fixups=[])
        app.conf.update({**self.conf, **_AT_ONCE, **changes})
        return app

    def backend(self, **changes: Any) -> ResultBackend:
        """Return a result backend of its own, whose store is not opened yet.

        Raises:
            ConfigurationError: the settings cannot be used.
        """
        return ResultBackend(self.app(**changes), url=self.url)

    def elsewhere(self, url: str, **changes: Any) -> Target:
        """Return the same with another place for results."""
        return Target({**self.conf, "result_backend": f"rootcellar+{url}", **changes}, self.processes)


def target_of(conf: Mapping[str, Any], processes: int | None = None) -> Target:
    """Return what Celery's settings say.

    Args:
        conf: the settings.
        processes: how many use them; by default those of one worker, and one more.
    """
    if processes is None:
        processes = int(conf.get("worker_concurrency") or os.cpu_count() or 1) + 1
    return Target(conf, processes)


def url_target(url: str, processes: int | None = None) -> Target:
    """Return what a store's URL says.

    Raises:
        ConfigurationError: it is none.
    """
    url = url.removeprefix("rootcellar+")
    if "://" not in url:
        raise ConfigurationError(
            "not a URL", where="rootcellar check", remedy="write postgresql://user:password@host/db"
        )
    return target_of({"result_backend": f"rootcellar+{url}"}, processes)
