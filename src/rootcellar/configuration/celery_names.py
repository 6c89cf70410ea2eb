"""The names of all of Celery's settings, as the installed Celery knows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from celery.app.defaults import NAMESPACES, flatten


@cache
def options() -> Mapping[str, Any]:
    """Return Celery's description of each setting, by its lower-case name."""
    return dict(flatten(NAMESPACES))


@cache
def old_names() -> Mapping[str, str]:
    """Return the lower-case name of each setting by its old upper-case one: ``CELERYD_CONCURRENCY``."""
    return dict(flatten(NAMESPACES, keyfilter=_old_and_new))


def setting_of(key: str, prefix: str = "") -> str | None:
    """Return the lower-case name of a setting by a key of a configuration; ``None`` for what is none of Celery's.

    Args:
        key: the key.
        prefix: what Celery's keys begin with there (``CELERY_`` with ``namespace="CELERY"``).
    """
    if prefix and key.lower().startswith(prefix.lower()):
        return key[len(prefix) :].lower()
    if key in old_names():
        return old_names()[key]
    return key if key == key.lower() and not key.startswith("_") else None


def _old_and_new(namespace: str, key: str, option: Any) -> Iterator[tuple[str, str]]:
    new = namespace + key
    for old in option.old or (new,):
        yield old.format(key).upper(), new
