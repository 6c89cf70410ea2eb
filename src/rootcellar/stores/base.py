"""The interface of a store: where records live.

A store holds :class:`~rootcellar.records.TaskRecord`, :class:`~rootcellar.records.GroupRecord` and chords, and
knows nothing of Celery. Its verbs are few and each is one step for the server: it happens wholly or not at all.
Every verb may be called from any thread or greenlet, and from a process forked after the store was opened.
Errors are those of :mod:`rootcellar.errors`; a store does not retry an outage, it fails fast with
:class:`~rootcellar.errors.StoreUnavailable`.

What only some stores can do is an *ability*, a protocol of its own (:class:`Queryable`, :class:`HasSchema`);
ask with ``isinstance``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol, runtime_checkable

from rootcellar.records import ChordPart, ChordProgress, ChordRecord, GroupRecord, PartResult, Stored, TaskRecord
from rootcellar.stores.watching import Watcher
from rootcellar.stores.withdrawal import VERBS, Worked, held

#: Rows deleted by one call of :meth:`Store.delete_expired`, so that no transaction grows long.
DELETE_BATCH = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """What a store may be told beside its URL.

    Attributes:
        task_table, group_table: names of the tables.
        task_schema, group_schema: the schemas they are in; ``None`` for the server's default.
        create_tables: whether missing tables are made on first use.
        pool_size: the most connections that one process may open.
        pool_timeout: seconds to wait for a free connection.
        pool_recycle: seconds after which a connection is replaced; 0 closes it after each use, -1 never.
        pool_pre_ping: whether a connection that lay idle is tested before it is used.
        listen_url: where to wait for notifications, when the store's own URL goes through a transaction pooler.
        prepared_statements: ``auto`` prepares statements where no connection pooler lies between, ``on`` also there,
            ``off`` never; for stores that prepare statements.
        connect_args: driver arguments (``sslmode``, ``connect_timeout``, …).
        redis: Celery's ``redis_…`` settings that were set, without that prefix (``backend_use_ssl``, ``username``, …).
        transport_options: Celery's ``result_backend_transport_options``.
        mongodb: Celery's ``mongodb_backend_settings``.
        password: what ``result_backend_password`` says: a text, a function that returns it at each connect, or a
            mapping of those by the kind of store; see :func:`~rootcellar.stores.passwords.source_of`.
        holds_copies: whether another store has all that is here, so that the server may throw it away.
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
    listen_url: str | None = None
    prepared_statements: str = "auto"
    connect_args: Mapping[str, Any] = field(default_factory=dict)
    redis: Mapping[str, Any] = field(default_factory=dict)
    transport_options: Mapping[str, Any] = field(default_factory=dict)
    mongodb: Mapping[str, Any] = field(default_factory=dict)
    password: Any = field(default=None, repr=False)
    holds_copies: bool = False


class Store(ABC):
    """Where records live. See the module's text for what every verb promises."""

    #: True where the server deletes expired records by itself, so that no cleanup need be scheduled.
    expires_by_itself: bool = False

    def __init__(self, url: str, options: StoreOptions | None = None) -> None:
        """Open nothing yet: the first verb connects.

        Args:
            url: the store's own URL, without ``rootcellar+``.
            options: what else it is told.

        Raises:
            ConfigurationError: the URL cannot be used.
            DriverMissing: a Python package is not installed.
        """
        self.url = url
        self.options = options or StoreOptions()
        #: what has worked, and so is retried if it is refused later
        self.worked = Worked()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let each verb of a store hold what is refused to it only for a while."""
        super().__init_subclass__(**kwargs)
        for verb in VERBS:
            if verb in cls.__dict__:
                setattr(cls, verb, held(verb, cls.__dict__[verb]))

    # -- tasks

    @abstractmethod
    def put(
        self, record: TaskRecord, part: ChordPart | None = None, *, lease: float = 30.0, durable: bool = True
    ) -> Stored:
        """Store a task's state over what is there, unless what is there must stay.

        A SUCCESS (``state == "SUCCESS"``) stays. A record that is done stays if the new one is not done and has fewer
        ``retries``: that is the RETRY of an earlier run, which came late.

        Fields of ``record`` that are ``None`` keep what an earlier state stored, except ``result``, ``traceback``,
        ``done_at`` and ``expires_at``, which belong to the state, and except ``children`` of a record that is done:
        a finished task has the children of its last run, or none.

        With ``part``, the part is counted in the same transaction, as :meth:`count_part` does, also where the record
        was not written. A part that brings no result of its own gets ``record.result``: the chord keeps it, whatever
        becomes of the task's record. Without ``durable``, the server may answer before the disk has it; a store that
        cannot do so ignores it.

        Returns:
            whether it was written, and the chord's progress where a part was counted.
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

        A scan that begins where the last one ended misses no record that was there all the while.
        """

    # -- groups

    @abstractmethod
    def put_group(self, group: GroupRecord) -> None:
        """Store a group, over the one of the same id."""

    @abstractmethod
    def get_group(self, group_id: str) -> GroupRecord | None:
        """Return a saved group, or ``None``."""

    @abstractmethod
    def delete_group(self, group_id: str) -> None:
        """Delete a saved group, if there is one."""

    # -- chords

    @abstractmethod
    def begin_chord(self, chord: ChordRecord) -> None:
        """Keep a chord's body and header, and forget what an earlier run under the same group id counted."""

    @abstractmethod
    def size_chord(self, group_id: str, size: int, *, relative: bool = False, key: str | None = None) -> None:
        """Say how many parts the chord has, or with ``relative`` how many more. Parts may have come before.

        Args:
            group_id: the chord.
            size: how many parts, or how many more.
            relative: whether it is more that is told.
            key: names this growth: told twice under one key since the chord was begun, it counts once, so that it may
                be told again where the first answer was lost.
        """

    @abstractmethod
    def count_part(self, part: ChordPart, *, lease: float = 30.0) -> ChordProgress:
        """Count a part, once for each (group id, task id, group index) however often it comes.

        The chord owns what its parts gave until it is finished. A task's record may be deleted, expire, be stored anew,
        be evicted or be moved elsewhere before that: :meth:`chord_parts` gives the same results.

        A part puts off the chord's expiry to the part's ``expires_at``, where that is later: a chord whose parts still
        come does not expire. A chord that never expires stays so.

        Who completes the chord claims it: ``claimed`` is true, and nobody else may claim it for ``lease`` seconds,
        but for the same part of the same delivery. A part of a finished chord is not counted.
        """

    @abstractmethod
    def claim_chord(self, group_id: str, claimant: str, *, lease: float = 30.0) -> bool:
        """Claim a complete chord that is not finished and that nobody holds; return whether it was claimed."""

    @abstractmethod
    def get_chord(self, group_id: str) -> ChordRecord | None:
        """Return a chord that was begun and is not finished, or ``None``."""

    @abstractmethod
    def chord_parts(self, group_id: str) -> Sequence[PartResult]:
        """Return a chord's parts in the order of the header, those without an index last.

        Each has the result that it was counted with. One that was counted without any, as :meth:`count_part` allows,
        shows that of its task's record; where there is no record, its result is ``None``.
        """

    @abstractmethod
    def finish_chord(self, group_id: str) -> None:
        """Record that the body was called: drop the body and the parts, refuse parts that come later."""

    @abstractmethod
    def orphaned_chords(self, owner: str, limit: int = 100) -> Sequence[str]:
        """Return ids of an owner's chords that are complete, not finished, and whose claim has run out."""

    # -- time and end

    @abstractmethod
    def delete_expired(self, now: datetime, limit: int = DELETE_BATCH) -> int:
        """Delete up to about ``limit`` records that expired before ``now``; return how many tasks and groups.

        Call it again until it returns 0.
        """

    @abstractmethod
    def check(self) -> None:
        """Connect and look at the schema as the first use would; raise what it would raise."""

    @abstractmethod
    def close(self) -> None:
        """Close every connection of this process. The next verb opens new ones."""

    @property
    @abstractmethod
    def where(self) -> str:
        """The store for people: host and database or file, without secrets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQuery:
    """What :meth:`Queryable.query` looks for; every condition that is given must hold.

    Attributes:
        states: any of these states.
        names, queues, workers: any of these task names, queues and workers; ``*`` stands for any text.
        id_prefix: what the task's id begins with; empty for any id.
        since, until: finished (or, if unfinished, started or sent) at or after, and before.
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
    """A store that can be asked for records by more than their id."""

    def query(self, query: TaskQuery) -> Sequence[TaskRecord]:
        """Return the matching records: unfinished ones first, then the most recently finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaStatus:
    """What a store's schema is like.

    Attributes:
        version: the version of the tables; 0 where there are none.
        wanted: the version that this release makes.
        foreign: tables of those names that are not rootcellar's.
        adopted: Celery's own tables, renamed aside, whose results are still read.
        damaged: tables and columns of this version that are missing, each in a sentence.
        repairs: the statements that put columns back.
    """

    version: int
    wanted: int
    foreign: tuple[str, ...] = ()
    adopted: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    repairs: tuple[str, ...] = ()


class Schema(Protocol):
    """The tables of a store."""

    def status(self) -> SchemaStatus:
        """Look, and change nothing."""

    def create(self) -> None:
        """Make the tables, or bring them to this release's version; safe when many do so at once.

        Raises:
            ForeignTables: tables of those names exist and are somebody else's.
        """

    def sql(self) -> str:
        """Return the statements that :meth:`create` would run on an empty database."""

    def adopt(self, keep: timedelta | None) -> Sequence[str]:
        """Rename Celery's own tables aside, make ours, and read theirs where ours have no answer.

        Args:
            keep: how long after they were done the old results are kept; ``None`` for as long as the tables exist.

        Returns:
            the new names of the old tables.
        """

    def to_adopt(self) -> Sequence[tuple[str, str]]:
        """Return what :meth:`adopt` would rename, each table with its new name; change nothing."""

    def to_unadopt(self) -> tuple[Sequence[tuple[str, str]], int]:
        """Return what :meth:`unadopt` would rename, and how many results of ours it would delete; change nothing."""

    def unadopt(self, *, drop_results: bool = False) -> Sequence[str]:
        """Take our tables away, and give Celery's own their names back.

        Args:
            drop_results: whether to do so where our tables hold results.

        Returns:
            the names of Celery's tables.

        Raises:
            SchemaMissing: nothing was adopted.
            ResultsInTheWay: our tables hold results.
        """


@runtime_checkable
class HasSchema(Protocol):
    """A store that keeps records in tables."""

    @property
    def schema(self) -> Schema:
        """The tables of this store."""


@runtime_checkable
class Watchable(Protocol):
    """A store whose server tells when a result is there. Every other store is watched by looking."""

    def watcher(self) -> Watcher:
        """Return the one watcher of this process and store."""


@runtime_checkable
class ReportsInserts(Protocol):
    """A store that can tell whether a record is the first of its task: what is stored then is what was given."""

    def report_inserts(self) -> None:
        """Say so from now on, by :attr:`~rootcellar.records.Stored.inserted`, where a task is stored without a part."""


@runtime_checkable
class Replaceable(Protocol):
    """A store that can put other payloads in a record's place, where it is still what it was."""

    def replace(self, old: TaskRecord, new: TaskRecord) -> bool:
        """Store the payloads and the traceback of ``new``, unless those or the state of ``old`` are others by now.

        Nothing else of the record changes: ``new`` differs from ``old`` in nothing but payloads and traceback, and
        gives those that ``old`` gives.

        Returns:
            whether it was stored; ``False`` also where it was, but the answer was lost.
        """
