"""Hides URLs with passwords in Celery's configuration from ``celery report``, ``inspect conf`` and Flower."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from rootcellar.urls import redact

#: settings with URLs that Celery does not mask
OPTIONS, URLS = ("result_backend_transport_options", "mongodb_backend_settings"), ("result_blob_url", "result_archive")


class HiddenOptions(dict[str, Any]):
    """Options that are complete when read by name, but printed, iterated and written as JSON without passwords."""

    def items(self) -> Any:
        return _shown(self).items()

    def values(self) -> Any:
        return _shown(self).values()

    def __repr__(self) -> str:
        return repr(_shown(self))

    def __reduce__(self) -> Any:
        # complete: a copy made by items() could not connect
        return type(self), (dict(self),)


class HiddenUrl:
    """A URL that ``str()`` returns. It is not a ``str``, because Celery's ``inspect conf`` sends every ``str``."""

    __slots__ = ("_url",)

    def __init__(self, url: str) -> None:
        self._url = url

    def __str__(self) -> str:
        return self._url

    def __repr__(self) -> str:
        return repr(redact(self._url))

    def __eq__(self, other: object) -> bool:
        return str(other) == self._url if isinstance(other, (str, HiddenUrl)) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._url)


def hide_urls(conf: Any) -> None:
    """Hide the passwords in the settings that an app sets itself.

    Args:
        conf: ``app.conf``; its inner mappings are changed, because its ``repr`` shows them.
    """
    names = {*OPTIONS, *URLS}
    prefix = str(getattr(conf, "prefix", None) or "")
    names |= {prefix + name for name in names} | {prefix + name.upper() for name in names} if prefix else set()
    for mapping in conf.maps:
        for name in names:
            value = mapping.get(name) if hasattr(mapping, "get") else None
            if isinstance(value, dict) and not isinstance(value, HiddenOptions):
                _set(conf, mapping, name, HiddenOptions(value))
            elif isinstance(value, str) and redact(value) != value:
                _set(conf, mapping, name, HiddenUrl(value))


def _set(conf: Any, mapping: Any, name: str, value: Any) -> None:
    """Replace a setting in its mapping. If that is read-only, like `rootcellar.settings()`, add one before it."""
    if isinstance(mapping, MutableMapping):
        mapping[name] = value
    else:
        # the application's own settings are there already, and take precedence
        conf.maps[0].setdefault(name, value)


def _shown(options: dict[str, Any]) -> dict[str, Any]:
    return {name: redact(each) if isinstance(each, str) else each for name, each in dict(options).items()}
