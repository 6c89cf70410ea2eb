"""The options that only a PostgreSQL store has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rootcellar.errors import ConfigurationError
from rootcellar.stores.base import TRANSPORT_SETTING, StoreOptions
from rootcellar.stores.passwords import source_of

#: the allowed values of ``prepared_statements``
CHOICES = ("auto", "on", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresOptions:
    """The options of a PostgreSQL store, in addition to those of every store.

    Attributes:
        connect_args: libpq's parameters that take precedence over the URL. They may contain the password.
        listen_url: the URL for notifications, if the store's own URL leads to a transaction pooler.
        prepared_statements: ``auto`` prepares statements unless there is a connection pooler, ``on`` always, ``off``
            never.
    """

    connect_args: Mapping[str, Any] = field(default_factory=dict, repr=False)
    listen_url: str | None = None
    prepared_statements: str = "auto"

    def __post_init__(self) -> None:
        if self.prepared_statements not in CHOICES:
            raise ConfigurationError(
                f"prepared_statements is {self.prepared_statements!r}",
                where=TRANSPORT_SETTING,
                remedy=f"write one of {', '.join(CHOICES)}",
            )


def read_options(options: StoreOptions) -> PostgresOptions:
    """Return the options of a PostgreSQL store from the driver arguments and the transport options.

    Raises:
        ConfigurationError: they cannot be used.
    """
    password = source_of(options.password, "postgresql", "postgres")
    given = options.transport_options
    return PostgresOptions(
        connect_args={**options.connect_args, **({} if password is None else {"password": password})},
        listen_url=given.get("listen_url"),
        prepared_statements=_choice(given.get("prepared_statements", "auto")),
    )


def _choice(value: Any) -> str:
    """Return a choice as a word. ``on`` and ``off`` may be booleans, because YAML reads them so."""
    return ("on" if value else "off") if isinstance(value, bool) else str(value)
