"""The settings of a hybrid store: its mode and its two stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rootcellar.errors import ConfigurationError
from rootcellar.stores.base import TRANSPORT_SETTING, StoreOptions
from rootcellar.stores.hybrid.cache import EXPIRES
from rootcellar.stores.urls import SETTING, UrlForm, read_query, split_url

WRITE_THROUGH, WRITE_BEHIND = "write-through", "write-behind"
_URL_FORM = UrlForm(
    example="rootcellar+hybrid://",
    secrets="result_backend_transport_options",
    options=("durable_url", "cache_url", "mode", "cache_expires"),
)
#: seconds to wait for the cache; after that, the durable store is asked
CACHE_TIMEOUT_SECONDS = 1.0

WHERE = TRANSPORT_SETTING


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a hybrid store.

    Attributes:
        mode: which of the two stores has a result first.
        durable_url, cache_url: the two stores.
        cache_options: the options of the cache.
        cache_expires: the most seconds for which a copy is kept.
    """

    mode: str
    durable_url: str
    cache_url: str
    cache_options: StoreOptions
    cache_expires: float


def read_settings(url: str, options: StoreOptions) -> Settings:
    """Return the settings in the transport options and in the URL's query, which takes precedence.

    Raises:
        ConfigurationError: a setting is missing, or cannot be used.
    """
    given: Mapping[str, Any] = {**options.transport_options, **_query(url)}
    for name in ("durable_url", "cache_url"):
        if not given.get(name):
            raise ConfigurationError(
                f"hybrid:// needs {name}",
                where=WHERE,
                remedy="set durable_url to a postgresql:// URL and cache_url to a redis:// URL there",
            )
        if str(given[name]).removeprefix("rootcellar+").startswith("hybrid:"):
            raise ConfigurationError(f"{name} is hybrid:// again", where=WHERE, remedy="name a store that is one")
    return Settings(
        mode=_mode(given.get("mode") or WRITE_THROUGH),
        durable_url=str(given["durable_url"]),
        cache_url=str(given["cache_url"]),
        cache_options=replace(
            options,
            answer_timeout=CACHE_TIMEOUT_SECONDS,
            pool_timeout=min(options.pool_timeout, CACHE_TIMEOUT_SECONDS),
            holds_copies=(given.get("mode") or WRITE_THROUGH) == WRITE_THROUGH,
        ),
        cache_expires=_seconds(given.get("cache_expires", EXPIRES)),
    )


def _mode(mode: Any) -> str:
    if mode not in (WRITE_THROUGH, WRITE_BEHIND):
        raise ConfigurationError(
            f"there is no mode {str(mode)!r}",
            where=WHERE,
            remedy=f"set mode to {WRITE_THROUGH!r} or {WRITE_BEHIND!r}, or leave it out",
        )
    return str(mode)


def _query(url: str) -> dict[str, str]:
    """Return the settings in the URL's query, for tools that have only a URL."""
    _, place, query = split_url(url)
    if place.strip("/"):
        raise ConfigurationError(
            "a hybrid URL names no place itself",
            where=SETTING,
            remedy="write rootcellar+hybrid://, and durable_url and cache_url into result_backend_transport_options",
        )
    given = read_query(query, _URL_FORM)
    for name, value in given.items():
        if name.endswith("_url") and ":" in value.partition("://")[2].rpartition("@")[0]:
            raise ConfigurationError(
                f"{name} has a password in the URL's query, where tools that hide passwords do not find it",
                where=SETTING,
                remedy=f"write {name} into {WHERE}",
            )
    return given


def _seconds(value: Any) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = 0.0
    if seconds <= 0:
        raise ConfigurationError(
            f"cache_expires is not a number of seconds: {value!r}", where=WHERE, remedy="write 3600 for an hour"
        )
    return seconds
