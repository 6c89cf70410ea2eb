"""The result backend that Celery calls, for any store.

Celery creates one for each process (it is thread-safe). Workers call ``store_result``; clients call ``get_task_meta``,
``wait_for_pending`` and ``iter_native``. It contains no SQL and nothing of Redis: the stores do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError
from celery import states
from celery.exceptions import BackendGetMetaError, BackendStoreError, Ignore, Reject
from celery.result import result_from_tuple
from celery.utils.log import get_logger
from kombu.serialization import registry

from rootcellar.backend import exceptions, lifecycle
from rootcellar.backend.chords import Chords
from rootcellar.backend.holding import HoldsOfBackend
from rootcellar.backend.interim import Interim
from rootcellar.backend.observing import observer_of
from rootcellar.backend.options import store_options, warn_of_unknown
from rootcellar.backend.outgoing import Outgoing
from rootcellar.backend.policies import MainPolicy, StorePolicies, WaitingPolicy
from rootcellar.backend.reads import ReadingBackend
from rootcellar.backend.recorder import Recorder, child_tuples, text_ids
from rootcellar.backend.retaining import warn_if_nothing_archives
from rootcellar.backend.sent import TRACK_SENT, SentTasks
from rootcellar.errors import ConfigurationError, RootcellarError
from rootcellar.maintenance.chord_sweep import ChordSweep, ChordSweepConfig
from rootcellar.maintenance.cleanup import Cleanup, CleanupConfig, CleanupWork
from rootcellar.maintenance.deferred_writes import DeferredWrites
from rootcellar.maintenance.drain import Drain
from rootcellar.maintenance.leadership import StoreLeader
from rootcellar.maintenance.mover import Mover, MoverConfig
from rootcellar.maintenance.roll_up import RollUp, RollUpConfig
from rootcellar.maintenance.runner import Runner
from rootcellar.maintenance.service import Service
from rootcellar.maintenance.spares import Spares
from rootcellar.payloads import codec_of, content_type_of, known_compression, serialise, serializer_of, typed
from rootcellar.payloads.forgetting import forget_tasks
from rootcellar.payloads.settings import flag_of, keeps_ignored, type_modules_of, value_of
from rootcellar.records import NO_DATE, TYPED_JSON, ChordPart, GroupRecord, Stored, TaskRecord
from rootcellar.retention.policy import read_retention, read_seconds
from rootcellar.stores import Store, open_store
from rootcellar.stores.base import RecordsSent
from rootcellar.stores.counting import Counted, KnownFailure
from rootcellar.stores.fields import text_id
from rootcellar.stores.journal import WritesBehind
from rootcellar.stores.older import Older
from rootcellar.support.backoff import Backoff
from rootcellar.support.hidden_urls import hide_urls
from rootcellar.support.outages import Outage
from rootcellar.text.escaping import visible_logs
from rootcellar.urls import redact
from rootcellar.waiting.blocking import Waiter

if TYPE_CHECKING:
    from rootcellar.archive.reading import Archive
    from rootcellar.history.grouping.grouping import Grouper

T = TypeVar("T")

logger = visible_logs(get_logger(__name__))

#: the attribute of a task and the header of a call: whether a result must be on the disk before it counts as stored
SYNCHRONOUS_COMMIT = "result_synchronous_commit"

#: our options in ``result_backend_transport_options``, with their defaults in seconds
CHORD_LEASE = 30.0
CHORD_SWEEP_INTERVAL = 10.0
STATISTICS_INTERVAL = 5.0
CLEANUP_INTERVAL = 3_600.0
MOVE_INTERVAL = 60.0

#: seconds that a worker waits at its end for the current work of its services
STOP_TIMEOUT = 5.0


class ResultNotStored(RootcellarError, BackendStoreError):  # type: ignore[misc]
    """A result could not be stored within ``result_backend_max_retries``. Retryable, by running the task again."""

    retryable = True


class ResultNotRead(RootcellarError, BackendGetMetaError):  # type: ignore[misc]
    """A result could not be read: the store cannot be reached. Retryable."""

    retryable = True


class ResultBackend(ReadingBackend):
    """Celery's results in a rootcellar store.

    Chosen by ``result_backend = "rootcellar+postgresql://…"``; see :func:`rootcellar.stores.open_store` for the URLs.

    It uses these settings of Celery: ``result_expires``, ``result_failure_expires``, ``result_chord_expires``,
    ``result_extended``, ``result_failure_libraries``, ``result_serializer``, ``result_accept_content``,
    ``result_compression``, ``result_cache_max``, ``result_backend_always_retry`` (on by default),
    ``result_backend_max_retries``,
    ``result_backend_password`` (a text, or a function that returns the password at each connect),
    ``result_backend_base_sleep_between_retries_ms``, ``result_backend_max_sleep_between_retries_ms``,
    ``database_table_names``, ``database_table_schemas``, ``database_create_tables_at_setup``,
    ``database_engine_options`` (``pool_size``, ``max_overflow``, ``pool_timeout``, ``pool_recycle``, ``pool_pre_ping``,
    ``connect_args``), ``database_short_lived_sessions`` and ``mongodb_backend_settings``.
    Own settings: ``result_retention`` (the rules; a task's attribute ``result_expires`` overrides them),
    ``result_track_sent`` (a task's attribute overrides it), ``result_sent_state``, ``result_history`` and
    ``result_archive`` (where archived results are).
    In ``result_backend_transport_options``: ``chord_lease`` and ``chord_sweep_interval``, in seconds;
    ``statistics_interval``, seconds between two counts of the results (5; 0 for none by workers);
    ``cleanup_interval``, seconds between two cleanups of expired results, and between two runs of the archive
    (3,600; 0 for none by workers); ``move_interval``, seconds between two moves of results to the older table of
    PostgreSQL, if there is one (60; 0 for none by workers); ``listen_url``, the server for notifications if the
    store's URL leads to a pooler; ``prepared_statements`` (``auto``, ``on``, ``off``), whether statements are
    prepared through a pooler; ``migrate_to``, the URL of the store to which results are migrated; and
    ``synchronous_commit``, which a task's attribute or a call's header
    ``result_synchronous_commit`` overrides.
    """

    persistent = True
    supports_native_join = True
    supports_result_compression = True
    supports_failure_expires = True
    always_retry: bool
    accept: set[str]
    max_retries: float

    def __init__(self, app: Any, url: str | None = None, **kwargs: Any) -> None:
        conf = app.conf
        content_type_of(kwargs.get("serializer") or conf.result_serializer)
        super().__init__(app, url=url, **kwargs)
        hide_urls(conf)
        if not url:
            raise ConfigurationError(
                "the result backend has no URL",
                where="result_backend",
                remedy="write rootcellar+postgresql://user:password@host/database or rootcellar+sqlite:///path",
            )
        # one backend for each process; otherwise Celery creates one for each thread
        self.thread_safe = True
        self.compression = self.prepare_compression(conf.get("result_compression"))
        if kwargs.get("accept") is None and conf.result_accept_content is None and self.serializer == typed.NAME:
            # the content types that this app writes by default; none of them can execute code
            self.accept = {*self.accept, TYPED_JSON}
        self.always_retry = bool(self.always_retry) or not conf.value_set_for("result_backend_always_retry")
        if self.max_retries is None:
            self.max_retries = float("inf")
        self.retention = read_retention(conf, self.expires)
        observer = observer_of(app)
        store = open_store(url, store_options(conf))
        self.store: Store = store if observer is None else observer.store(store)
        self._archive = self._open_archive(store)
        self.read_archived = None if self._archive is None else self._archive.read
        # a client that waits for many tasks gets those that can be read
        read_each = None if self._archive is None else self._archive.read_each
        self.waiter = Waiter(store, read_each) if observer is None else observer.waiter(self.store, read_each)
        self._backoff = self._read_backoff()
        self._outage = Outage() if observer is None else observer.outage()
        self._interim = Interim(self._backoff, self._outage)
        self._late = DeferredWrites(self._backoff, self._outage)
        transport_options = conf.get("result_backend_transport_options") or {}
        warn_of_unknown(transport_options)
        self._synchronous_commit = transport_options.get("synchronous_commit", True)
        self._exception_modules = type_modules_of(conf) or ()
        #: the app's registry of tasks, set at its first use, because ``app.tasks`` takes a lock at each access
        self._tasks: Any = None
        self.codec = codec_of(conf, serializer=self.serializer, accept=self.accept)
        self._holds = HoldsOfBackend(self.store, self.codec)
        # only the cleanup deletes blobs, even if the store deletes expired records by itself
        self.supports_autoexpire = self.store.expires_by_itself and self.codec.spiller is None
        self.recorder = Recorder(
            self.codec,
            self.retention,
            # read once, because reading it takes as long as encoding a small result
            is_extended=bool(conf.find_value_for_key("extended", "result")),
            task_of=self._task_of,
            make_grouper=self._make_grouper,
        )
        self.shows_sent = flag_of(conf, "result_sent_state", default=False)
        self._keeps_ignored = keeps_ignored(conf)
        self._sent = self._make_sent()
        self.chords = Chords(self, read_seconds(transport_options.get("chord_lease", CHORD_LEASE), "chord_lease"))
        self.chord_sweep_interval = read_seconds(
            transport_options.get("chord_sweep_interval", CHORD_SWEEP_INTERVAL),
            "chord_sweep_interval",
            longest=threading.TIMEOUT_MAX,
        )
        self._statistics_interval = read_seconds(
            transport_options.get("statistics_interval", STATISTICS_INTERVAL),
            "statistics_interval",
            longest=threading.TIMEOUT_MAX,
        )
        self._move_interval = read_seconds(
            transport_options.get("move_interval", MOVE_INTERVAL), "move_interval", longest=threading.TIMEOUT_MAX
        )
        self._cleanup_interval = read_seconds(
            transport_options.get("cleanup_interval", CLEANUP_INTERVAL),
            "cleanup_interval",
            longest=threading.TIMEOUT_MAX,
        )
        self._policies = self._make_policies()
        self._chord_sweep = ChordSweep(
            self.chords.sweep, ChordSweepConfig(chord_sweep_interval=self.chord_sweep_interval)
        )
        self._services = Runner(self._services_of_a_worker(), partial(StoreLeader, self.store))
        lifecycle.register_backend(self)
        if observer is not None:
            observer.made(self)

    def _open_archive(self, store: Store) -> Archive | None:
        """Return the archive that the settings name, in which old results stay readable."""
        url, where = value_of(self.app.conf, "result_archive")
        if url is None:
            return None
        # imported late: few processes read archived results
        from rootcellar.backend.archived import archive_of

        return archive_of(str(url), store, where)

    def _make_grouper(self) -> Grouper:
        # imported late: most tasks never fail
        from rootcellar.history.grouping.settings import grouper_of_worker

        return grouper_of_worker(self.app.conf, self.codec)

    def _make_sent(self) -> SentTasks | None:
        """Return the object that records sent tasks; ``None`` if the store cannot record them.

        Raises:
            ConfigurationError: it cannot, and the user wants it.
        """
        is_on = flag_of(self.app.conf, TRACK_SENT, default=False)
        ability = self.store.ability(RecordsSent)
        if ability is None and is_on:
            raise ConfigurationError(
                "this store cannot record tasks when they are sent",
                where=TRACK_SENT,
                remedy="use another store, or remove the setting",
            )
        if ability is None:
            return None
        return SentTasks(
            ability.put_sent, self.recorder, self._backoff, self._outage, is_on=is_on, task_named=self._task_named
        )

    def _read_backoff(self) -> Backoff:
        """Return the pauses between retries, from the settings."""
        return Backoff(
            read_seconds(self.base_sleep_between_retries_ms, "result_backend_base_sleep_between_retries_ms"),
            read_seconds(self.max_sleep_between_retries_ms, "result_backend_max_sleep_between_retries_ms"),
        )

    # -- storing

    def store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        """Store a task's state and result. If the task has ended, count its part of a chord in the same transaction.

        Only the ``mark_as_…`` methods mean that a task has ended. A task that stores any state by itself goes on. The
        data of a ``request`` are only stored for the task of this request.

        A state that is not final (STARTED, RETRY, an application's own) does not delay its task: in an outage it is
        stored later, or not at all if the next state comes first.

        Returns:
            the encoded result, like Celery's own backends.

        Raises:
            NotEncodable: the result cannot be encoded.
            ResultNotStored: the outage did not end within the limit.
        """
        key = text_id(task_id)
        request = _own_request(key, request)
        is_failure = state == states.FAILURE and isinstance(result, BaseException)
        raised = exceptions.as_raised(result) if is_failure else None
        encodable = self._encodable(result, state, request)
        outgoing = self._outgoing(key, encodable, state, traceback, request, raised)
        part = self.chords.part_of(request, state, encodable, holds_result=False) if self.chords.is_end() else None

        action = f"store {state} of task {task_id}"
        try:
            policy = self._policies.current()
            is_lost = policy.is_main and isinstance(result, WorkerLostError) and state in states.READY_STATES
            put = partial(self._put_lost if is_lost else self._put, outgoing, part, request)
            progress = policy.store(outgoing.record, put, request, action)
        except RootcellarError as exc:
            raise self._not_stored(exc, task_id, state) from exc
        if part is not None:
            self.chords.set_progress(request, progress)
        self._cache.pop(key, None)
        return encodable

    def _make_policies(self) -> StorePolicies:
        proceed, limit = self.chords.proceed, lambda: self._limit
        return StorePolicies(
            MainPolicy(self._late, proceed=proceed, limit=limit),
            WaitingPolicy(
                self._interim, self._backoff, self._outage, proceed=proceed, limit=limit, is_over=self._is_over
            ),
        )

    def _is_over(self, task_id: str) -> bool:
        record = self.store.get(task_id)
        return record is not None and record.done_at is not None

    def mark_as_done(
        self,
        task_id: str,
        result: Any,
        request: Any = None,
        store_result: bool = True,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        own = _own_request(task_id, request)
        with self.chords.ending():
            super().mark_as_done(task_id, result, own, store_result, *args, **kwargs)
        self._keep_ignored(own, kwargs.get("state", states.SUCCESS), is_stored=store_result)

    def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        traceback: Any = None,
        request: Any = None,
        store_result: bool = True,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        own = _own_request(task_id, request)
        with self.chords.ending():
            super().mark_as_failure(task_id, exc, traceback, own, store_result, *args, **kwargs)
        # a task that ends by Ignore or Reject has no end in Celery either
        if not isinstance(exc, (Ignore, Reject)):
            self._keep_ignored(own, kwargs.get("state", states.FAILURE), is_stored=store_result)

    def mark_as_revoked(
        self,
        task_id: str,
        reason: Any = "",
        request: Any = None,
        store_result: bool = True,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        own = _own_request(task_id, request)
        with self.chords.ending():
            super().mark_as_revoked(task_id, reason, own, store_result, *args, **kwargs)
        self._keep_ignored(own, kwargs.get("state", states.REVOKED), is_stored=store_result)

    def _keep_ignored(self, request: Any, state: str, *, is_stored: bool) -> None:
        """Store the name, the state and the times of a task that ignores its result, if the user wants that.

        This does not delay the task in an outage. A part of a chord is not stored: its chord keeps it.
        """
        if is_stored or not self._keeps_ignored or request is None or request.chord or request.is_eager:
            return
        if not lifecycle.ignores_result(request, self._task_of(request)):
            return
        record = self.recorder.ended_unstored(request, state)
        put = partial(self.store.put, record, durable=self._is_durable(request))
        action = f"store that task {record.task_id} has ended"
        try:
            self._policies.current().store_unawaited(record.task_id, put, action)
        except RootcellarError as exc:
            logger.error("Could not %s: %s", action, exc)

    def _fail_chain(self, *args: Any, **kwargs: Any) -> None:
        """Mark the tasks after a failed one in its chain as failed. Celery has this method since 5.7."""
        with self.chords.ending():
            super()._fail_chain(*args, **kwargs)

    def end_unrecorded(self, request: Any, exc: BaseException) -> None:
        """Count the part of a task that has ended, and for which Celery stores no end.

        If the task itself has stored a final state, the part has this state. Otherwise it is a failure.

        Args:
            request: the task's request, or that of a message for an unknown task.
            exc: the reason: ``Ignore``, ``Reject``, or that the task is not known.
        """
        if not request.chord and not request.chain:
            return

        def count() -> None:
            if not (request.chord and self.chords.count_by_hand(request)):
                self.mark_as_failure(request.id, exc, request=request, store_result=False, call_errbacks=False)

        self._policies.current().complete(count, f"count the end of task {request.id}")

    def record_end(self, task: Any, exc: BaseException) -> None:
        """Record a task that ended in an exception that does not extend ``Exception``. Some pools leave it PENDING."""
        request = task.request
        traceback = ExceptionInfo().traceback
        if lifecycle.is_child_of_pool():
            # the main process also stores a failure, but it knows only that the child process is lost
            is_run_again = (task.acks_late and task.reject_on_worker_lost) or getattr(task, "retry_on_worker_lost", 0)
            if isinstance(exc, KeyboardInterrupt) and not is_run_again and _is_stored(task):
                encodable = self._encodable(exc, states.FAILURE, request)
                outgoing = self._outgoing(request.id, encodable, states.FAILURE, traceback, request, exc)
                self.ensure(lambda: self._put(outgoing, None, request), f"store FAILURE of task {request.id}")
        elif lifecycle.is_end_of_run(task, exc):
            self.mark_as_failure(request.id, exc, traceback, request=request, store_result=_is_stored(task))

    def _put_lost(self, outgoing: Outgoing, part: ChordPart | None, request: Any) -> Stored:
        """Store that a worker was lost, unless the task has stored its own failure. Always count its part."""
        there = self.store.get(outgoing.record.task_id)
        if there is None or there.state != states.FAILURE:
            return self._put(outgoing, part, request)
        progress = None if part is None else self.store.count_part(part, lease=self.chords.lease)
        return Stored(written=False, chord=progress)

    def _put(self, outgoing: Outgoing, part: ChordPart | None, request: Any) -> Stored:
        is_durable = self._is_durable(request)
        spiller = self.codec.spiller

        def put(record: TaskRecord) -> Stored:
            return self.store.put(record, part, lease=self.chords.lease, durable=is_durable)

        if spiller is None:
            return outgoing.put(put)
        is_repeated = _is_repeated(request)
        return outgoing.put(
            lambda record: spiller.put(self.store, record, lambda: put(record), is_repeated=is_repeated)
        )

    # -- sent tasks

    def on_task_call(self, producer: Any, task_id: Any) -> None:
        """Celery calls this before it sends a task that does not ignore its result."""
        if self._sent is not None:
            lifecycle.begin_call(self, task_id)

    def record_sent(self, name: Any, headers: Any, body: Any, routing_key: Any) -> None:
        """Record a task that was sent, if the user wants it. Does not wait for the store."""
        if self._sent is not None:
            self._sent.on_sent(name, headers, body, routing_key)

    def flush_sent(self) -> None:
        """Wait a moment until the tasks that this process has sent are recorded. Does not wait in an outage."""
        if self._sent is not None:
            self._sent.flush()

    def waiting_as_sent(self, task_id: str) -> TaskRecord | None:
        return None if self._sent is None else self._sent.waiting(text_id(task_id))

    def _is_durable(self, request: Any) -> bool:
        """Return whether the result must be on the disk before it counts as stored: by call, by task, or by setting."""
        by_call = getattr(request, SYNCHRONOUS_COMMIT, None)
        if by_call is not None:
            return _is_on(by_call)
        return _is_on(getattr(self._task_of(request), SYNCHRONOUS_COMMIT, self._synchronous_commit))

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        """Store an encoded result. Celery's base class calls this; our code does not."""
        self.store.put(self._record(text_id(task_id), result, state, traceback, request))
        return result

    def _not_stored(self, exc: RootcellarError, task_id: str, state: str) -> RootcellarError:
        logger.critical("The result of task %s (%s) is NOT stored: %s", task_id, state, exc)
        if not exc.retryable:
            return exc
        error = ResultNotStored(exc.what, where=exc.where, remedy=exc.remedy)
        error.task_id, error.state = task_id, state
        return error

    def _record(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any,
        request: Any,
        cut_to: int | None = None,
        raised: BaseException | None = None,
    ) -> TaskRecord:
        children = self.current_task_children(request)
        return self.recorder.record(task_id, result, state, traceback, request, children, cut_to, raised)

    def _outgoing(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any,
        request: Any,
        raised: BaseException | None = None,
    ) -> Outgoing:
        make = partial(self._record, task_id, result, state, traceback, request, raised=raised)
        return Outgoing(make() if self.codec.spiller is None else self._record_with_retries(make, task_id, state), make)

    def _record_with_retries(self, make: Callable[[], TaskRecord], task_id: str, state: str) -> TaskRecord:
        """Return the record. If its result goes to a blob store that has an outage, retry."""
        try:
            return self._policies.waiting.ensure(make, f"keep the result of task {task_id} in a blob")
        except RootcellarError as exc:
            if not exc.retryable:
                raise
            raise self._not_stored(exc, task_id, state) from exc

    def _task_of(self, request: Any) -> Any:
        """Return the task of a request, or ``None`` if this process does not know it."""
        name = getattr(request, "task", None)
        return self._task_named(name) if isinstance(name, str) else None

    def _task_named(self, name: str) -> Any:
        """Return the task of a name, or ``None`` if this process does not know it."""
        tasks = self._tasks
        if tasks is None:
            tasks = self._tasks = self.app.tasks
        return tasks.get(name)

    def prepare_compression(self, compression: str | None) -> str | None:
        """Return the compression to use. Celery has and calls this method since 5.7."""
        return known_compression(compression)

    def _encodable(self, result: Any, state: str, request: Any) -> Any:
        """Return a result in a form for its serializer. Celery's ``encode_result`` does not know the task."""
        own = serializer_of(self.recorder.call_of(request))
        if state in self.EXCEPTION_STATES and isinstance(result, BaseException):
            # Celery before 5.7 accepts only subclasses of Exception
            is_known = own in registry.name_to_type
            return self.prepare_exception(exceptions.as_raised(result), own if is_known else None)
        return self.encode_result(result, state)

    def prepare_exception(self, exc: BaseException, serializer: str | None = None) -> Any:
        serializer = serializer or self.serializer
        if serializer == "pickle":
            return super().prepare_exception(exc, serializer)
        return exceptions.describe(exc, lambda value: serialise(value, serializer))

    def exception_to_python(self, exc: Any) -> Any:
        if isinstance(exc, BaseException):
            return super().exception_to_python(exc)
        return exceptions.restore(exc, self._exception_modules)

    # -- groups and chords

    def _save_group(self, group_id: str, result: Any) -> Any:
        now = datetime.now(timezone.utc)
        members = serialise(text_ids(result.as_tuple()), "json")
        expires_at = self.retention.group_expiry(now, len(members.body))
        self.store.put_group(
            GroupRecord(group_id=text_id(group_id), result=members, done_at=now, expires_at=expires_at)
        )
        return result

    def _restore_group(self, group_id: str) -> dict[str, Any] | None:
        group = self.store.get_group(text_id(group_id))
        if group is None:
            self._warn_if_eager()
            return None
        return {
            "taskset_id": group_id,
            "result": result_from_tuple(self._members_of(group), self.app),
            "date_done": None if group.done_at == NO_DATE else group.done_at,
        }

    def _members_of(self, group: GroupRecord) -> Any:
        """Return the tuple of a saved group.

        Raises:
            PayloadUnreadable: it is damaged.
        """
        found = self.codec.decode_open(group.result, task_id=group.group_id, field="group")
        return child_tuples([found], f"the members of group {group.group_id!a}")[0]

    def _delete_group(self, group_id: str) -> None:
        self.store.delete_group(text_id(group_id))

    def apply_chord(self, header_result_args: Any, body: Any, **kwargs: Any) -> None:
        self.ensure_chords_allowed()
        group_id, *rest = header_result_args
        self.ensure(lambda: self.chords.begin((text_id(group_id), *rest), body), f"begin chord {group_id}")

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        self.ensure(lambda: self.store.size_chord(text_id(group_id), chord_size), f"size chord {group_id}")

    def add_to_chord(self, chord_id: str, result: Any) -> None:
        group_id, key = text_id(chord_id), text_id(result.id)
        self.ensure(lambda: self.store.size_chord(group_id, 1, relative=True, key=key), f"add to chord {chord_id}")

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        progress = self.chords.take_progress(request)
        if progress is None:
            part = self.chords.part_of(request, state, self._encodable(result, state, request), holds_result=True)
            if part is None:
                return
            self._policies.current().count(
                partial(self.store.count_part, part, lease=self.chords.lease),
                request,
                f"count a part of chord {part.group_id}",
            )
            return
        self.chords.proceed(request, progress)

    def _services_of_a_worker(self) -> list[Service]:
        """Return the background services of a worker's main process."""
        # stopped last
        services: list[Service] = [self._late, self._chord_sweep]
        if (moving := self.store.ability(WritesBehind)) is not None:
            services.append(Drain(moving))
        if (counted := self.store.ability(Counted)) is not None and self._statistics_interval:
            config = RollUpConfig(statistics_interval=self._statistics_interval)
            services.append(RollUp(counted, config, self._name_failures))
        # what expires by itself needs no cleanup; chords have a sweep of their own
        if self._cleanup_interval and not self.supports_autoexpire:
            services.append(Cleanup(self._cleanup_work(), CleanupConfig(cleanup_interval=self._cleanup_interval)))
        if (archiving := self.retention.archiving()) is not None:
            # imported late: few workers archive
            from rootcellar.maintenance.rules_record import RulesRecord
            from rootcellar.stores.rules_on_record import KeepsRules

            if self.store.ability(KeepsRules) is not None:
                services.append(RulesRecord(self.store, self.retention))
        if (older := self.store.ability(Older)) is not None and self._move_interval:
            config_of_mover = MoverConfig(pause=self._move_interval)
            spares = Spares(self.store, self.codec)
            services.append(Mover(self.store, older, config_of_mover, spares, archiving))
        if (archive := self._archive) is not None and self._cleanup_interval:
            # imported late: few workers archive
            from rootcellar.backend.archived import services_of

            services += services_of(archive, self.store, self.codec, self.retention, self._cleanup_interval)
        return services

    def _cleanup_work(self) -> CleanupWork:
        """Return what a cleanup of this backend works on."""
        return CleanupWork.of(
            self.store, self.codec, self.app.conf, retention=self.retention, sweep_chords=self.chords.sweep
        )

    def _name_failures(self, groups: Sequence[KnownFailure]) -> None:
        # imported late: most tasks never fail
        from rootcellar.history.failure_titles import Titles

        Titles(self.store, self.codec, self.app.conf, self._make_grouper()).name(groups)

    def start_services(self) -> None:
        """Start the background services of a worker's main process."""
        warn_if_nothing_archives(self.retention, self.store)
        self._services.start()

    def stop_services(self) -> None:
        """Stop these services, and log the operations that are lost because the worker ends."""
        self._services.stop(STOP_TIMEOUT)
        for action in self._late.pending():
            logger.critical("Gave up, because the worker ends: could not %s", action)

    # -- deleting

    def _forget(self, task_id: str) -> None:
        ids = [text_id(task_id)]
        if self._sent is not None:
            # a record that is not stored yet may be held too: then it must still be stored
            if (waiting := self._sent.waiting(ids[0])) is not None:
                self._holds.check(lambda: [waiting])
            self._sent.drop(ids[0])
        # first, because it refuses a held result
        forget_tasks(self.store, self.codec.spiller, ids, self._holds)
        if (archive := self._archive) is not None:
            self._holds.check(lambda: archive.read(ids).values())
            archive.forget(ids)

    def cleanup(self) -> None:
        """Delete expired records and finish orphaned chords: ``celery.backend_cleanup`` calls this."""
        cleanup = Cleanup(self._cleanup_work())
        cleaned = self.ensure(cleanup.clean, cleanup.action)
        logger.info("%s [%s]", cleaned.sentence(), self.store.where)

    def sweep_in_thread(self) -> None:
        """Sweep in a thread, because a slow broker or store must not delay a caller that has a timeout."""
        self._chord_sweep.run_in_thread()

    # -- outages

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        return isinstance(exc, RootcellarError) and exc.retryable

    def ensure(self, work: Callable[[], T], action: str, limit: float | None = None) -> T:
        """Call ``work``, which uses the store, and retry in an outage.

        In a worker there are as many retries as the user's settings allow, elsewhere a few. A worker's main process
        does not wait for them.

        Raises:
            RootcellarError: the error of the last try.
        """
        return self._policies.current().ensure(work, action, limit)

    @property
    def cleanup_interval(self) -> float:
        """The seconds between two cleanups by workers; 0 if they do not clean up."""
        return self._cleanup_interval

    @property
    def late_writes(self) -> int:
        """How many states and results of this process could not be stored yet."""
        return len(self._late.pending()) + self._interim.waiting

    @property
    def _limit(self) -> float:
        return self.max_retries if self.always_retry else 0

    def _ensure_retryable(
        self,
        func: Callable[..., T],
        *args: Any,
        fallback_exc: Any = None,
        fallback_msg: Any = None,
        max_retries: float | None = None,
        **kwargs: Any,
    ) -> T:
        try:
            return self.ensure(lambda: func(*args, **kwargs), getattr(func, "__name__", "") or repr(func), max_retries)
        except RootcellarError as exc:
            if not exc.retryable or fallback_exc is None:
                raise
            raise ResultNotRead(exc.what, where=exc.where, remedy=exc.remedy) from exc

    # -- other methods of Celery's interface

    def as_uri(self, include_password: bool = False) -> str:
        """Return the URL, by default without passwords."""
        url = f"rootcellar+{self.url}"
        return url if include_password else redact(url)

    def __reduce__(self, args: Any = (), kwargs: Any = None) -> Any:
        return super().__reduce__(args, {**(kwargs or {}), "url": self.url, "expires": self.expires})

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.as_uri()}>"


def _own_request(task_id: Any, request: Any) -> Any:
    """Return a request if it belongs to this task, else ``None``, because its data must not be stored for this task."""
    # the request in a message for an unknown task has no id
    own = getattr(request, "id", task_id)
    if type(own) is str and own == task_id:
        return request
    return request if own is not None and text_id(own) == text_id(task_id) else None


def _is_stored(task: Any) -> bool:
    """Return True if the failure of a task's run is stored."""
    return bool(task.store_errors_even_if_ignored or not lifecycle.ignores_result(task.request, task))


def _is_on(value: Any) -> bool:
    return str(value).lower() not in ("off", "false", "0", "no")


def _is_repeated(request: Any) -> bool:
    """Return True if a task ran before, or may have."""
    delivery_info = getattr(request, "delivery_info", None)
    return bool(
        getattr(request, "retries", 0) or (isinstance(delivery_info, Mapping) and delivery_info.get("redelivered"))
    )
