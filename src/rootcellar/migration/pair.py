"""The two stores of a migration, with the abilities that both of them need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from rootcellar.errors import MigrationRefused
from rootcellar.migration.endpoint import Lookup, store_endpoint
from rootcellar.migration.verifying import Verifying
from rootcellar.records import GroupRecord, TaskRecord
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
        lookup: finds single records, with their expiry also if only the server knows it, as for what Celery wrote to
            Redis.
    """

    name: str
    store: Store
    url: str
    mirrored: Mirrored
    streamed: Streamed
    values: SharesValues
    lookup: Lookup

    def get(self, task_id: str) -> TaskRecord | None:
        """Return the record of a task, with its expiry; ``None`` if there is none."""
        return self.lookup.get_many([task_id]).get(task_id)

    def get_many(self, task_ids: Iterable[str]) -> Mapping[str, TaskRecord]:
        """Return the records of tasks that exist, by id, with their expiry."""
        return self.lookup.get_many(task_ids)

    def get_group(self, group_id: str) -> GroupRecord | None:
        """Return a saved group, with its expiry; ``None`` if there is none."""
        return self.lookup.get_group(group_id)

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
        source, target = (
            replace(store_endpoint(side.store), lookup=side.lookup) for side in (self.source, self.target)
        )
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
    streamed = _must(store, Streamed)
    return Side(
        name=name,
        store=store,
        url=redact(store.url.removeprefix("rootcellar+")),
        mirrored=_must(store, Mirrored),
        streamed=streamed,
        values=_must(store, SharesValues),
        lookup=streamed if isinstance(streamed, Lookup) else store,
    )


def _must(store: Store, protocol: type[A]) -> A:
    found = store.ability(protocol)
    assert found is not None, "refusal() asked for it"
    return found
