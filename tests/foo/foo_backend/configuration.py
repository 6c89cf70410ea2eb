"""The variables of Foo, its URL and its settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rootcellar.configuration.celery_settings import OPTIONS
from rootcellar.configuration.choices import Choice
from rootcellar.configuration.urls import SecretUrl
from rootcellar.configuration.values import Flag, Secret, Text
from rootcellar.configuration.variables import Group, variable


class FooVariables(Group):
    """Foo."""

    foo_path: Text = variable("The file.", "`results.foo`")
    foo_password: Secret = variable("The password.", "none")
    foo_is_slow: Flag = variable("Whether Foo takes its time.", "`false`")


def url(found: Any) -> SecretUrl:
    """Return the URL of Foo."""
    password = f":{found.foo_password.get_secret_value()}@" if found.foo_password else ""
    return SecretUrl(f"foo://{password}/{found.foo_path or 'results.foo'}")


def settings(found: Any, backend: Choice) -> dict[str, Any]:
    """Return Celery's settings for Foo."""
    return {OPTIONS: {"foo": {"is_slow": True}}} if found.foo_is_slow else {}


def contradictions(found: Any, backend: Choice, broker: Choice | None) -> Iterator[str]:
    """Yield what contradicts each other."""
    if found.foo_is_slow and not found.foo_path:
        yield "FOO_PATH is missing: FOO_IS_SLOW needs it"
