"""The interface of a store, which keeps records.

A store keeps :class:`~rootcellar.records.TaskRecord`, :class:`~rootcellar.records.GroupRecord` and chords, and knows
nothing of Celery. Each of its methods takes effect completely or not at all. Each may be called from any thread or
greenlet, and from a process that was forked after the store was opened. Its errors are those of
:mod:`rootcellar.errors`. A store does not retry in an outage: it raises
:class:`~rootcellar.errors.StoreUnavailable` at once.

An *ability* that only some stores have is a protocol (:class:`Queryable`, :class:`HasSchema`): ask for it with
:meth:`Store.ability`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar, runtime_checkable

from rootcellar.errors import ConfigurationError
from rootcellar.records import ChordPart, ChordProgress, ChordRecord, GroupRecord, PartResult, Stored, TaskRecord
from rootcellar.stores.watching import Watcher
from rootcellar.stores.withdrawal import METHODS, WorkedMethods, track_withdrawal

A = TypeVar("A")

#: Celery's setting with options that all stores share
TRANSPORT_SETTING = "result_backend_transport_options"
#: Rows deleted by one call of :meth:`Store.delete_expired`, so that no transaction grows long.
DELETE_BATCH = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """The options of a store, in addition to its URL.

    Attributes:
        task_table, group_table: names of the tables.
        task_schema, group_schema: the schemas of the tables; ``None`` for the server's default.
        create_tables: whether missing tables are created at the first use.
        pool_size: the most connections that one process may open.
        pool_timeout: seconds to wait for a free connection.
        pool_recycle: seconds after which a connection is replaced; 0 closes it after each use, -1 never.
        pool_pre_ping: whether a connection that was idle for a while is tested before it is used.
        answer_timeout: seconds to connect and to wait for a reply, unless the store's own settings give a time;
            ``None`` for the store's default. Only stores that can be a cache need it.
        connect_args: driver arguments (``sslmode``, ``connect_timeout``, …).
        transport_options: Celery's ``result_backend_transport_options``, which all stores share.
        sections: options that only one kind of store has, by its kind, which is the scheme of its URLs. The store reads
            and checks its own; see :meth:`section`.
        password: the value of ``result_backend_password``: a text, a function that returns it at each connect, or a
            mapping from the kind of store to one of these; see :func:`~rootcellar.stores.passwords.source_of`.
        holds_copies: whether another store has every record of this one, so that the server may evict them.
    """

    task_table: str = "celery_taskmeta"
    group_table: str = "celery_groupmeta"
    task_schema: str | None = None
    group_schema: str | None = None
    create_tables: bool = True
    pool_size: int = 20
    pool_timeout: float = 30.0
    pool_recycle: float = 3600.0
    pool_pre_ping: bool = True
    answer_timeout: float | None = None
    connect_args: Mapping[str, Any] = field(default_factory=dict)
    transport_options: Mapping[str, Any] = field(default_factory=dict)
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    password: Any = field(default=None, repr=False)
    holds_copies: bool = False

    def section(self, kind: str) -> Mapping[str, Any]:
        """Return the options of one kind of store; empty if there are none.

        Raises:
            ConfigurationError: it is not a mapping.
        """
        found = self.sections.get(kind) or {}
        if not isinstance(found, Mapping):
            raise ConfigurationError(
                f"the options of {kind} are a {type(found).__name__}",
                where=TRANSPORT_SETTING,
                remedy="give a mapping of names to values",
            )
        return found


class Store(ABC):
    """Keeps records. See the module's docstring for the guarantees of every method."""

    #: whether the server deletes expired records by itself, so that no cleanup needs to be scheduled
    expires_by_itself: bool = False

    def __init__(self, url: str, options: StoreOptions | None = None) -> None:
        """Open no connection yet: the first call of a method connects.

        Args:
            url: the store's own URL, without ``rootcellar+``.
            options: the options.

        Raises:
            ConfigurationError: the URL cannot be used.
            DriverMissing: a Python package is not installed.
        """
        self.url = url
        self.options = options or StoreOptions()
        #: which methods have worked; a later refusal of them is retryable
        self.worked = WorkedMethods()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Wrap each method of a store: if a call is refused that worked before, the error is retryable."""
        super().__init_subclass__(**kwargs)
        for name in METHODS:
            if name in cls.__dict__:
                setattr(cls, name, track_withdrawal(name, cls.__dict__[name]))

    def ability(self, protocol: type[A]) -> A | None:
        """Return an object that has an ability, such as :class:`Queryable`; ``None`` if this store lacks it.

        A store has the abilities whose methods it has. A store that consists of other stores answers for them.
        """
        return self if isinstance(self, protocol) else None

    # -- tasks

    @abstractmethod
    def put(
        self, record: TaskRecord, part: ChordPart | None = None, *, lease: float = 30.0, durable: bool = True
    ) -> Stored:
        """Store a task's record. It replaces the stored one, unless that must stay.

        A SUCCESS (``state == "SUCCESS"``) stays. A record that is done stays if the new one is not done and has fewer
        ``retries``: the new one is the RETRY of an earlier run, and arrived late.

        A field of ``record`` that is ``None`` keeps the stored value. This does not apply to ``result``, ``traceback``,
        ``done_at`` and ``expires_at``, which belong to the state; nor to ``children`` if the record is done, because a
        finished task has only the children of its last run.

        With ``part``, the part is counted in the same transaction, as :meth:`count_part` does, even if the record was
        not written. A part without a result of its own gets ``record.result``. The chord keeps it, even if the task's
        record is deleted. Without ``durable``, the server may answer before the record is on the disk; some stores
        ignore this.

        Returns:
            whether it was written, and the chord's progress if a part was counted.
        """

    @abstractmethod
    def get(self, task_id: str) -> TaskRecord | None:
        """Return the record of a task, or ``None``."""

    @abstractmethod
    def get_many(self, task_ids: Iterable[str]) -> dict[str, TaskRecord]:
        """Return the records that exist of these tasks, by id, in as few statements as the server allows."""

    @abstractmethod
    def delete(self, task_ids: Iterable[str]) -> int:
        """Delete these tasks' records; return how many there were."""

    @abstractmethod
    def scan(self, after: str | None = None, limit: int = 1_000) -> Sequence[TaskRecord]:
        """Return up to ``limit`` records in the order of their ids, after the id ``after``.

        If each call begins after the last id of the previous call, no record is missed that existed during all calls.
        """

    # -- groups

    @abstractmethod
    def put_group(self, group: GroupRecord) -> None:
        """Store a group. It replaces a group with the same id."""

    @abstractmethod
    def get_group(self, group_id: str) -> GroupRecord | None:
        """Return a saved group, or ``None``."""

    @abstractmethod
    def delete_group(self, group_id: str) -> None:
        """Delete a saved group, if there is one."""

    # -- chords

    @abstractmethod
    def begin_chord(self, chord: ChordRecord) -> None:
        """Store a chord's body and header, and delete the parts of an earlier run with the same group id."""

    @abstractmethod
    def size_chord(self, group_id: str, size: int, *, relative: bool = False, key: str | None = None) -> None:
        """Set the number of a chord's parts. Parts may have been counted before.

        Args:
            group_id: the chord.
            size: the number of parts, or how many are added.
            relative: whether ``size`` is added to the current size instead of replacing it.
            key: idempotency key. The same key is counted once since the chord was begun, so that the call can be
                repeated after a lost reply.
        """

    @abstractmethod
    def count_part(self, part: ChordPart, *, lease: float = 30.0) -> ChordProgress:
        """Count a part, once for each (group id, task id, group index), however often this is called.

        The chord keeps the results of its parts until it is finished. Before that, a task's record may be deleted,
        expire, be stored again, be evicted or be moved: :meth:`chord_parts` returns the same results.

        If the part's ``expires_at`` is later than the chord's, it becomes the chord's: a chord whose parts still arrive
        does not expire. A chord without an expiry stays without one.

        The call that completes the chord claims it: ``claimed`` is true, and for ``lease`` seconds only the same part
        of the same delivery may claim it again. A part of a finished chord is not counted.
        """

    @abstractmethod
    def claim_chord(self, group_id: str, claimant: str, *, lease: float = 30.0) -> bool:
        """Claim a complete chord that is not finished and has no claim; return whether it was claimed."""

    @abstractmethod
    def get_chord(self, group_id: str) -> ChordRecord | None:
        """Return a chord that was begun and is not finished, or ``None``."""

    @abstractmethod
    def chord_parts(self, group_id: str) -> Sequence[PartResult]:
        """Return a chord's parts in the order of the header, those without an index last.

        Each has the result with which it was counted. A part that was counted without a result, as :meth:`count_part`
        allows, has that of its task's record, or ``None`` if there is no record.
        """

    @abstractmethod
    def finish_chord(self, group_id: str) -> None:
        """Record that the body was sent: delete the body and the parts, and refuse later parts."""

    @abstractmethod
    def orphaned_chords(self, owner: str, limit: int = 100) -> Sequence[str]:
        """Return ids of an owner's chords that are complete, not finished, and have no valid claim."""

    # -- time and end

    @abstractmethod
    def delete_expired(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        """Delete up to about ``limit`` records that expired before ``now``; return how many tasks and groups.

        Call it again until it returns 0.
        """

    @abstractmethod
    def check(self) -> None:
        """Connect and check the schema as the first use does. Raises the same errors."""

    @abstractmethod
    def close(self) -> None:
        """Close every connection of this process. The next call of a method opens new ones."""

    @property
    @abstractmethod
    def where(self) -> str:
        """The store, for messages: host and database, or file, without secrets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQuery:
    """The conditions of :meth:`Queryable.query`; a record must meet all that are given.

    Attributes:
        states: any of these states.
        names, queues, workers: any of these task names, queues and workers; ``*`` matches any text.
        id_prefix: the beginning of the task's id; empty for any id.
        since, until: the task finished (or, if unfinished, was started or sent) at or after ``since`` and before
            ``until``.
        limit: the most records to return.
    """

    states: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    workers: tuple[str, ...] = ()
    id_prefix: str = ""
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 50


@runtime_checkable
class Queryable(Protocol):
    """A store that can search for records by other fields than the id."""

    def query(self, query: TaskQuery) -> Sequence[TaskRecord]:
        """Return the matching records: unfinished ones first, then the most recently finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaStatus:
    """The state of a store's tables.

    Attributes:
        version: the version of the tables; 0 if there are none.
        wanted: the version that this release creates.
        foreign: tables that have these names but are not rootcellar's.
        adopted: Celery's own tables under their new names; their results are still read.
        damaged: tables and columns of this version that are missing, each in a sentence.
        repairs: the statements that put columns back.
        missing_indexes: the statements that create the indexes that are missing. A large table is upgraded without its
            new indexes; :meth:`Schema.create` creates them while workers store results.
        older: the table to which finished results are moved; ``None`` if there is none.
    """

    version: int
    wanted: int
    foreign: tuple[str, ...] = ()
    adopted: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    repairs: tuple[str, ...] = ()
    missing_indexes: tuple[str, ...] = ()
    older: str | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the tables are of the wanted version, and nothing of them is missing."""
        return self.version == self.wanted and not self.damaged and not self.missing_indexes


class Schema(Protocol):
    """The tables of a store."""

    def status(self) -> SchemaStatus:
        """Return the state of the tables; change nothing."""

    def create(self) -> None:
        """Create the tables, or upgrade them to this release's version; safe if several processes do so at once.

        Indexes that are missing are created without a lock that makes workers wait.

        Raises:
            ForeignTables: tables with these names exist and are not rootcellar's.
        """

    def sql(self) -> str:
        """Return the statements that :meth:`create` would run on an empty database."""

    def adopt(self, keep: timedelta | None) -> Sequence[str]:
        """Rename Celery's own tables and create rootcellar's. Records that only Celery's tables have are still read.

        Args:
            keep: how long the old results are kept after their end; ``None`` for as long as the tables exist.

        Returns:
            the new names of the old tables.
        """

    def to_adopt(self) -> Sequence[tuple[str, str]]:
        """Return the tables that :meth:`adopt` would rename, each with its new name; change nothing."""

    def to_unadopt(self) -> tuple[Sequence[tuple[str, str]], int]:
        """Return the tables that :meth:`unadopt` would rename, and how many results it would delete; change nothing."""

    def unadopt(self, *, drop_results: bool = False) -> Sequence[str]:
        """Delete rootcellar's tables, and rename Celery's own tables back.

        Args:
            drop_results: whether to do so even if rootcellar's tables have results.

        Returns:
            the names of Celery's tables.

        Raises:
            SchemaMissing: nothing was adopted.
            ResultsInTheWay: rootcellar's tables have results.
        """


@runtime_checkable
class HasSchema(Protocol):
    """A store that keeps records in tables."""

    @property
    def schema(self) -> Schema:
        """The tables of this store."""


@runtime_checkable
class Watchable(Protocol):
    """A store whose server sends notifications of results. Other stores are polled."""

    def watcher(self) -> Watcher:
        """Return the one watcher of this process and store."""


@runtime_checkable
class ReportsInserts(Protocol):
    """A store that can report whether a record was inserted. An inserted record is stored exactly as it was passed."""

    def report_inserts(self) -> None:
        """From now on, set :attr:`~rootcellar.records.Stored.inserted` if a task is stored without a part."""


@runtime_checkable
class KnowsParts(Protocol):
    """A store that can tell whether a chord needs the result of a task."""

    def living_parts(self, task_ids: Sequence[str]) -> set[str]:
        """Return those of these tasks that are counted parts of an unfinished chord. It may read all parts."""


@runtime_checkable
class RecordsSent(Protocol):
    """A store that can store records of tasks that were only sent."""

    def put_sent(self, records: Sequence[TaskRecord]) -> None:
        """Store the records of those tasks that have none, in as few round trips as the server allows.

        A stored record stays as it is, whatever its state: the task may have started or ended before this call. Nobody
        is notified. The order of the records does not matter. Each has another id.

        Raises:
            RecordRefused: the server refuses one of the records. Some of the others may be stored.
        """


@runtime_checkable
class Replaceable(Protocol):
    """A store that can replace the payloads of a record, if the record has not changed."""

    def replace(self, old: TaskRecord, new: TaskRecord) -> bool:
        """Store the payloads and the traceback of ``new``, unless the stored record differs from ``old`` by now.

        ``new`` must have the same fields as ``old``; only the contents of payloads and traceback may differ.

        Returns:
            whether it was stored; ``False`` also if an earlier try stored it and its answer was lost.
        """
