"""One end of a copy: what it can do, whatever it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol, runtime_checkable

from rootcellar.errors import AbilityMissing
from rootcellar.payloads import Codec
from rootcellar.records import GroupRecord, TaskRecord
from rootcellar.stores import Store, StoreOptions
from rootcellar.stores.mirroring import CopyReport, Held, Mirrored
from rootcellar.stores.shared_values import SharesValues
from rootcellar.stores.streaming import ReadsWhole, Streamed
from rootcellar.urls import redact

#: the stores that take several copies at the same time: one is made ready while the server works on the other
_SEVERAL = ("postgres", "redis", "rediss", "sentinel", "mongodb")


class Source(Protocol):
    """What a copy reads from: see :class:`~rootcellar.stores.streaming.Streamed`."""

    def stream(self, cursor: str | None = None, limit: int = 1_000) -> tuple[Sequence[TaskRecord], str | None]:
        """Return about ``limit`` records, and the cursor for the next call; ``None`` at the end."""

    def stream_groups(self, cursor: str | None = None, limit: int = 1_000) -> tuple[Sequence[GroupRecord], str | None]:
        """Do the same for saved groups."""

    def count_roughly(self) -> int:
        """Return about how many task records there are."""


class Target(Protocol):
    """What a copy writes to: see :class:`~rootcellar.stores.mirroring.Mirrored`."""

    def copy(self, records: Sequence[TaskRecord], *, newer_wins: bool = False) -> CopyReport:
        """Store records where there is none, or where the stored one may be replaced."""

    def copy_groups(self, groups: Sequence[GroupRecord], *, newer_wins: bool = False) -> int:
        """Store groups where there is none, or an older one; return how many were written."""


@runtime_checkable
class Lookup(Protocol):
    """What finds records by their ids."""

    def get_many(self, task_ids: Iterable[str]) -> Mapping[str, TaskRecord]:
        """Return the records of these tasks that exist, by id."""

    def get_group(self, group_id: str) -> GroupRecord | None:
        """Return a saved group, or ``None``."""


class Settles(Protocol):
    """What replaces a record by one of the same moment: see :class:`~rootcellar.stores.mirroring.Mirrored`."""

    def mirror(self, record: TaskRecord) -> Held:
        """Store a record that is no SUCCESS."""

    def settle(self, record: TaskRecord) -> Held:
        """Store a SUCCESS."""


class Layout(Protocol):
    """Says what is left of a record in a system that does not keep everything that rootcellar keeps."""

    def kept(self, record: TaskRecord, codec: Codec) -> TaskRecord:
        """Return the record as it is read after it was stored there. The same for what this method returned.

        Args:
            record: the record.
            codec: decodes values that the system cannot keep as they are.

        Raises:
            RootcellarError: it cannot be stored there.
        """

    def kept_group(self, group: GroupRecord, codec: Codec) -> GroupRecord:
        """Do the same for a saved group."""


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One end of a copy. An ability that it lacks is ``None``.

    Attributes:
        name: its URL without a password, and the names of tables that are not the usual ones. The same name means the
            same place.
        where: the place, for messages.
        source: reads all of it.
        target: writes into it.
        lookup: finds records by their ids.
        mirrored: repairs single records.
        layout: what the system keeps of a record; ``None`` if it keeps everything.
        values: keeps how far a copy is.
        store: the store, if it is one of rootcellar.
        at_once: how many batches a copy writes at the same time.
        finish: makes what was written visible, where that is not so at once; a copy calls it at its end.
        close: closes connections and files.
    """

    name: str
    where: str
    source: Source | None = None
    target: Target | None = None
    lookup: Lookup | None = None
    mirrored: Settles | None = None
    layout: Layout | None = None
    values: SharesValues | None = None
    store: Store | None = None
    at_once: int = 1
    finish: Callable[[], object] = _nothing
    close: Callable[[], object] = _nothing

    @property
    def to_read(self) -> Source:
        """The source.

        Raises:
            AbilityMissing: results cannot be read from here.
        """
        if self.source is None:
            raise AbilityMissing(
                "this store cannot return all of its results", where=self.where, remedy="name another source"
            )
        return self.source

    @property
    def to_write(self) -> Target:
        """The target.

        Raises:
            AbilityMissing: results cannot be copied to here.
        """
        if self.target is None:
            raise AbilityMissing(
                "results cannot be copied into this store",
                where=self.where,
                remedy="name another target; a hybrid in the mode write-behind must be switched to write-through first",
            )
        return self.target


@dataclass(frozen=True, slots=True)
class Spec:
    """How an endpoint is opened, also in another process.

    Attributes:
        text: a URL, or the path of a folder or file of Parquet.
        options: the options of a store.
        allow_pickle: whether pickles of another system are read as plain data.
        keep: how long after their end results are kept that another system keeps without an expiry; ``None`` for ever.
    """

    text: str
    options: StoreOptions = field(default_factory=StoreOptions)
    allow_pickle: bool = False
    keep: timedelta | None = None


def store_endpoint(store: Store) -> Endpoint:
    """Return a store of rootcellar as an endpoint. Closing the endpoint closes the store."""
    options = store.options
    names = (options.task_table, options.group_table, options.task_schema, options.group_schema)
    usual = StoreOptions()
    is_usual = names == (usual.task_table, usual.group_table, None, None)
    url = redact(store.url.removeprefix("rootcellar+"))
    mirrored, streamed = store.ability(Mirrored), store.ability(Streamed)
    return Endpoint(
        name=url if is_usual else f"{url} {' '.join(each or '-' for each in names)}",
        where=store.where,
        source=streamed,
        target=None if mirrored is None or streamed is None else _StoreTarget(mirrored, streamed),
        lookup=_StoreLookup(store),
        mirrored=mirrored,
        values=store.ability(SharesValues),
        store=store,
        at_once=2 if url.startswith(_SEVERAL) else 1,
        close=store.close,
    )


@dataclass(frozen=True, slots=True)
class _StoreLookup:
    store: Store

    def get_many(self, task_ids: Iterable[str]) -> Mapping[str, TaskRecord]:
        return (self.store.ability(ReadsWhole) or self.store).get_many(task_ids)

    def get_group(self, group_id: str) -> GroupRecord | None:
        return self.store.get_group(group_id)


@dataclass(frozen=True, slots=True)
class _StoreTarget:
    mirrored: Mirrored
    streamed: Streamed

    def copy(self, records: Sequence[TaskRecord], *, newer_wins: bool = False) -> CopyReport:
        return self.mirrored.copy(records, newer_wins=newer_wins)

    def copy_groups(self, groups: Sequence[GroupRecord], *, newer_wins: bool = False) -> int:
        return self.streamed.copy_groups(groups, newer_wins=newer_wins)
