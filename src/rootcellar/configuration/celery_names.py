"""The names of all settings of the installed Celery, and their values, read from texts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from celery.app.defaults import NAMESPACES, flatten

from rootcellar.configuration.urls import SecretText, SecretUrl
from rootcellar.configuration.values import read_flag, read_seconds

#: the prefix of Celery's settings in the environment, as with ``namespace="CELERY"``
PREFIX = "CELERY_"
_SECRET = re.compile(r"(?i)pass(word|wd|phrase)?($|_)|secret|token|(^|(?<!routing)_)keys?$")


@cache
def options() -> Mapping[str, Any]:
    """Return Celery's description of each setting, by its lower-case name."""
    return dict(flatten(NAMESPACES))


@cache
def old_names() -> Mapping[str, str]:
    """Return the lower-case name of each setting by its old upper-case one: ``CELERYD_CONCURRENCY``."""
    return dict(flatten(NAMESPACES, keyfilter=_old_and_new))


def setting_of(key: str, prefix: str = "") -> str | None:
    """Return the lower-case name of the setting that a key of a configuration means, or ``None`` if it is not Celery's.

    Args:
        key: the key.
        prefix: the prefix of Celery's keys in this configuration (``CELERY_`` with ``namespace="CELERY"``).
    """
    if prefix and key.lower().startswith(prefix.lower()):
        return key[len(prefix) :].lower()
    if key in old_names():
        return old_names()[key]
    # a module of settings, and Django's settings, also have other names
    return key if _is_of_celery(key) else None


def _is_of_celery(name: str) -> bool:
    """Return True for a setting of Celery, and for any other name in a group of Celery's, such as ``result_…``."""
    return name in options() or isinstance(NAMESPACES.get(name.partition("_")[0]), dict)


def variable_setting(name: str) -> str | None:
    """Return the setting that an environment variable sets, or ``None`` if it sets none.

    ``CELERY_TASK_ALWAYS_EAGER`` is ``task_always_eager``, and so is ``CELERY_ALWAYS_EAGER``, its old name.
    """
    current = name.removeprefix(PREFIX).lower() if name.startswith(PREFIX) else ""
    return current if current in options() else old_names().get(name)


def is_current(name: str) -> bool:
    """Return True if a variable has the current name of a setting, not an old one."""
    return name.startswith(PREFIX) and name.removeprefix(PREFIX).lower() in options()


def value_of(setting: str, text: str) -> Any:
    """Return the value of a setting, read from a text. Its ``repr`` hides passwords.

    Raises:
        ValueError: the text is not allowed. The message says what is allowed, and does not contain the text.
    """
    words, read = _KINDS.get(_TYPES.get(setting, options()[setting].type), _KINDS["any"])
    try:
        return _hidden(setting, read(text.strip()))
    except (ValueError, RecursionError):
        raise ValueError(f"must be {words}") from None


def is_secret(setting: str) -> bool:
    """Return True if the name of a setting means that its value is a secret."""
    return _SECRET.search(setting) is not None


def _list(text: str) -> list[Any]:
    if not text.startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    found = json.loads(text)
    if not isinstance(found, list):
        raise ValueError(text)
    return found


def _dict(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(text)
    return found


def _accept_any(text: str) -> Any:
    """Return a flag, a number or JSON if the text is one, else the text."""
    try:
        return read_flag(text) if not text.isdigit() else int(text)
    except ValueError:
        pass
    try:
        return json.loads(text)
    except ValueError:
        return text


_KINDS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "bool": ("true or false", read_flag),
    "int": ("a whole number", int),
    "float": ("a number, or a duration such as 30s", read_seconds),
    "string": ("a text", str),
    "list": ("a list with commas, or a JSON array", _list),
    "tuple": ("a list with commas, or a JSON array", lambda text: tuple(_list(text))),
    "dict": ("a JSON object", _dict),
    "any": ("a text or JSON", _accept_any),
    "switch": ("true, false, or a JSON object", lambda text: _dict(text) if text.startswith("{") else read_flag(text)),
}


#: settings that may have more types than Celery's description says
_TYPES = {"broker_use_ssl": "switch"}


def _hidden(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _hidden(str(key), each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_hidden(name, each) for each in value)
    if isinstance(value, str) and is_secret(name):
        return SecretText(value)
    return SecretUrl(value) if isinstance(value, str) and "://" in value else value


def _old_and_new(namespace: str, key: str, option: Any) -> Iterator[tuple[str, str]]:
    new = namespace + key
    for old in option.old or (new,):
        yield old.format(key).upper(), new
