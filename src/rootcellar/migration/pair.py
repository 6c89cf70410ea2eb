"""The two stores of a migration, with the abilities that both of them need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from rootcellar.errors import MigrationRefused
from rootcellar.migration.endpoint import store_endpoint
from rootcellar.migration.verifying import Verifying
from rootcellar.stores.base import Store
from rootcellar.stores.journal import WritesBehind
from rootcellar.stores.mirroring import Mirrored
from rootcellar.stores.shared_values import SharesValues
from rootcellar.stores.streaming import Streamed
from rootcellar.urls import redact

A = TypeVar("A")


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The source or the target.

    Attributes:
        name: ``source`` or ``target``.
        store: the store.
        url: its URL without a password.
        mirrored, streamed, values: its abilities.
    """

    name: str
    store: Store
    url: str
    mirrored: Mirrored
    streamed: Streamed
    values: SharesValues

    @property
    def where(self) -> str:
        """The store, for messages."""
        return self.store.where


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Both stores of a migration."""

    source: Side
    target: Side

    def verifying(self, on_found: Callable[..., object], **options: object) -> Verifying:
        """Return what compares both sides; see :class:`~rootcellar.migration.verifying.Verifying`."""
        source, target = store_endpoint(self.source.store), store_endpoint(self.target.store)
        return Verifying(source, target, on_found=on_found, **options)  # type: ignore[arg-type]

    def close(self) -> None:
        """Close both stores."""
        self.source.store.close()
        self.target.store.close()


def pair_of(source: Store, target: Store) -> Pair:
    """Return two stores as a pair.

    Raises:
        MigrationRefused: one of them cannot take part in a migration, or both are the same.
    """
    pair = Pair(source=_side("source", source), target=_side("target", target))
    if pair.source.url == pair.target.url:
        raise MigrationRefused(
            "the source and the target are the same", where=pair.target.url, remedy="name another target"
        )
    return pair


def refusal(name: str, store: Store) -> MigrationRefused | None:
    """Return why a store cannot take part in a migration; ``None`` if it can.

    Args:
        name: ``source`` or ``target``.
        store: the store.
    """
    if store.ability(WritesBehind) is not None:
        return MigrationRefused(
            f"the {name} is a hybrid in the mode write-behind, which moves its results itself",
            where=store.where,
            remedy="run `rootcellar drain --once`, and switch the hybrid to write-through first",
        )
    missing = [protocol.__name__ for protocol in (Mirrored, Streamed, SharesValues) if store.ability(protocol) is None]
    if not missing:
        return None
    return MigrationRefused(
        f"the {name} cannot take part in a migration: this kind of store lacks {', '.join(missing)}",
        where=store.where,
        remedy="stop the workers, and move the results with `rootcellar copy`",
    )


def _side(name: str, store: Store) -> Side:
    if (problem := refusal(name, store)) is not None:
        raise problem
    return Side(
        name=name,
        store=store,
        url=redact(store.url.removeprefix("rootcellar+")),
        mirrored=_must(store, Mirrored),
        streamed=_must(store, Streamed),
        values=_must(store, SharesValues),
    )


def _must(store: Store, protocol: type[A]) -> A:
    found = store.ability(protocol)
    assert found is not None, "refusal() asked for it"
    return found
