"""Notifications by LISTEN and NOTIFY: one connection for all tasks that a process waits for.

A waiting process is a *listener*: a row with a flag (the column ``armed``), and a row for each task that it waits for,
with the kind of notification. While the flag is set, the listener wants a notification::

                 writer, after its commit: clears the flag, sends NOTIFY
      flag set ───────────────────────────────────────────────────────────> flag cleared
          ^                                                                      |
          └──────────────────────────────────────────────────────────────────────┘
                 listener: sets the flag, commits, then reads all of its tasks

PostgreSQL wakes every listening session of the database for each NOTIFY, whatever its channel. With the flag, many
results at the same moment cost one NOTIFY for each listener, not one for each result.

No notification is lost:

- A result that is committed before the registration is found by the read that follows the registration. The writer of
  a later result finds the registration.
- While the flag is cleared, the listener still has to read.
- If another writer has locked the listener's row, a writer sends a NOTIFY too, because the other one may die before its
  commit.
- When a listener begins to listen again, it sets its flag and reads all tasks, because a notification may have been
  sent while it did not listen.
- After the connection was lost, a new listener registers and reads everything again, because the server may not have
  noticed that the old one has ended.
- If a writer dies between its commit and its NOTIFY, the safety read (``pacing.py``) finds the result.

The thread and its connection pass through these states (:class:`ReconnectingWatcher` has the states of reconnecting)::

    prepared ──> listening ──────────────────────────────> quiet: UNLISTEN ──────────────────────> end
                 ^     |      no waiter for LISTEN_LINGER     |            no waiter for LINGER
                 |     v                                      |
                 |  exchange: register, set the flag, read    | a new waiter: LISTEN, read all
                 |     |                                      |
                 └─────┴──────────────────────────────────────┘
                  wait for a notification, a waiter, or the time of the safety read
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from psycopg.pq.abc import PGresult

from rootcellar import errors
from rootcellar.records import TaskRecord
from rootcellar.stores.postgres import binary, driver
from rootcellar.stores.postgres.driver import Connection, psycopg
from rootcellar.stores.postgres.pacing import Pacing
from rootcellar.stores.postgres.pipeline import BEGIN, COMMIT, Pipeline, Statement, read_bool, row_of
from rootcellar.stores.postgres.pooler_probe import PoolerProbe
from rootcellar.stores.replaced import when_replaced
from rootcellar.stores.sql import rows
from rootcellar.stores.watching import LINGER, Fetch, NotifyOn, PollingWatcher, ReconnectingWatcher
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

_PIPELINED = (
    *("register", "unregister", "want_notification"),
    *("read_all", "read_some", "read_all_or_moved", "read_some_or_moved"),
)
#: the columns that "read_all" and "read_some" return
_ID, _IS_ID_ONLY, _COLUMNS = range(3)

#: the most bytes of an id that an index of the server can store
MAX_ID_BYTES = 2_600
#: seconds of polling before notifications are tried again through a pooler that does not pass them on
POLLING_SECONDS = 600.0
#: seconds without a message after which the connection is tested
HEALTH_CHECK_SECONDS = 5.0
#: seconds in which the server must answer, and additional seconds for each task that is registered or read
ANSWER_SECONDS = 5.0
ANSWER_SECONDS_PER_TASK = 0.001
#: seconds for which the listener listens after the last waiter has left, because a busy client soon waits again
LISTEN_LINGER = 1.0


class ListeningWatcher(ReconnectingWatcher[Connection]):
    """Delivers results after a notification; polls if notifications do not arrive.

    Args:
        connect: opens a connection for the listener alone.
        fetch: reads records, for polling.
        statements: the statements of ``waiting.sql``, and those of ``older.sql`` that read.
        has_older: returns whether there is a table of older results; looks for it over a connection if that is due.
    """

    failures = (errors.StoreError, psycopg.Error)

    def __init__(
        self,
        connect: Callable[[], Connection],
        fetch: Fetch,
        statements: dict[str, str],
        has_older: Callable[[Connection], bool] = lambda _: False,
    ) -> None:
        super().__init__(fetch)
        self._has_older = has_older
        self._open = connect
        self._sql = statements
        self._statements = {name: Statement(name, statements[name]) for name in _PIPELINED if name in statements}
        self._listener = 0
        #: whether a notification arrived that no read has followed yet, and the process id of its sender
        self._is_notified = False
        self._sender: int | None = None
        self._is_listening = False
        self._pacing = Pacing()
        self._polls_until = 0.0
        self._connection: Connection | None = None
        when_replaced(self._give_up_replaced)

    def _serve(self) -> None:
        if time.monotonic() < self._polls_until:
            PollingWatcher._serve(self)
        else:
            super()._serve()

    def _connect(self) -> contextlib.AbstractContextManager[Connection]:
        # closed without a rollback, which would wait for a silent server
        return contextlib.closing(self._open())

    def _explain(self, exc: Exception) -> errors.RootcellarError:
        if isinstance(exc, errors.RootcellarError):
            return exc
        assert isinstance(exc, psycopg.Error)
        return driver.translate(exc, "listening")

    def _is_curable(self, exc: Exception, error: errors.RootcellarError) -> bool:
        return error.retryable or (isinstance(exc, psycopg.Error) and exc.sqlstate in driver.STALE)

    def _read_without_connection(self, error: errors.RootcellarError) -> None:
        if not isinstance(error, errors.StoreUnavailable):
            # the server answers, but it is a standby, or its tables are missing or changed: a read by the store
            # connects elsewhere, or creates the tables
            self._poll()

    def _can_exist(self, task_id: str) -> bool:
        return bool(rows.storable(task_id) == task_id) and len(task_id.encode()) <= MAX_ID_BYTES

    # -- the life of the connection

    def _prepare(self, connection: Connection) -> bool:
        self._listener = random.randrange(1, 2**31)
        self._is_listening = False
        self._connection = connection
        self.has_read = False
        connection.add_notify_handler(lambda notification: self._record_notification(notification.pid))
        if connection.is_pooled and not self._passes_notifications(connection):
            logger.warning(
                "Notifications do not come through the connection pooler. Polling instead; to be notified, "
                "set listen_url in result_backend_transport_options to the server's own address."
            )
            self._polls_until = time.monotonic() + POLLING_SECONDS
            return False
        self._listen(connection)
        # only after the test of a pooler: in transaction mode, this would change a session in which other clients store
        connection.execute("SET synchronous_commit = off")
        connection.execute(self._sql["drop_dead_listeners"], {"listener": self._listener})
        connection.execute(self._sql["begin_listening"], {"listener": self._listener})
        with self._lock:
            self._table.add_all_again()
        self._last_heard = time.monotonic()
        return True

    def _passes_notifications(self, connection: Connection) -> bool:
        def wait(seconds: float, *descriptors: int) -> None:
            self._poll()
            self._sleep(min(seconds, self._pause()), *descriptors)

        def sender() -> int | None:
            self._take_notifications(connection)
            return self._sender

        self._sender = None
        probe = PoolerProbe(self._open, wait, self._wake)
        return probe.passes_notifications(connection, self._channel, lambda: self._listen(connection), sender)

    def _give_up_replaced(self, server: str) -> None:
        """Give up the connection if its server was replaced as the primary."""
        connection = self._connection
        if connection is not None and connection.server == server and self.is_of_this_process():
            connection.give_up()
            self._wake()

    def _serve_on(self, connection: Connection) -> None:
        while not self._is_closed:
            if connection.is_given_up:
                raise errors.StoreUnavailable(
                    f"{connection.server} was replaced", where="listening", remedy="wait: rootcellar tries again"
                )
            idle = self._measure_idle()
            if not self._check_idle():
                self._serve_waiters(connection)
            elif idle < LINGER:
                self._wait_for_waiters(connection, idle)
            else:
                break
        connection.execute(self._sql["end_listening"], {"listener": self._listener})

    def _serve_waiters(self, connection: Connection) -> None:
        """Register and read what is due, and then wait until there is something to do."""
        self._listen(connection)
        self._exchange(connection)
        # before the next exchange, so that notifications are also taken while new waiters arrive all the time
        self._take_notifications(connection)
        if self._table.added:
            return
        if self._is_notified:
            self._sleep(max(0.0, self._until_read()))
        else:
            seconds = max(0.0, self._pacing.until_safety_read())
            self._await_notification(connection, min(HEALTH_CHECK_SECONDS, seconds))
            self._require_primary(connection)

    def _wait_for_waiters(self, connection: Connection, idle: float) -> None:
        """Wait for a new waiter. Stop listening if there was none for a while (``idle`` seconds)."""
        if self._is_listening and idle >= LISTEN_LINGER:
            self._stop_listening(connection)
        # a notification is only remembered: nothing is read before there is a waiter again
        self._sleep(LISTEN_LINGER if self._is_listening else LINGER, connection.fileno())
        self._take_notifications(connection)

    def _listen(self, connection: Connection) -> None:
        if not self._is_listening:
            with _answer_within(connection, ANSWER_SECONDS):
                connection.execute(f'LISTEN "{self._channel}"')
            self._is_listening = True
            # a notification may have been sent before, and did not arrive
            self._is_notified = True

    def _stop_listening(self, connection: Connection) -> None:
        self._exchange(connection)
        with _answer_within(connection, ANSWER_SECONDS):
            connection.execute(f'UNLISTEN "{self._channel}"')
        self._is_listening = False

    # -- registering and reading

    def _exchange(self, connection: Connection) -> None:
        """Register the changes, set the flag and commit; then read and deliver, all in one round trip."""
        added, removed = self._take_changes()
        is_read_due = self._is_notified and self._until_read() <= 0
        reads_all = is_read_due or self._pacing.until_safety_read() <= 0
        if not (added or removed or reads_all):
            return
        by_kind: defaultdict[NotifyOn, list[str]] = defaultdict(list)
        for task_id, kind in added.items():
            by_kind[kind].append(task_id)
        me = {"listener": self._listener}
        # before the read: a row that the read does not find may have been moved
        suffix = "_or_moved" if (added or reads_all) and self._looks_for_older(connection) else ""
        pipeline = Pipeline(connection)
        pipeline.send(BEGIN)
        if removed:
            self._send(pipeline, "unregister", {**me, "task_ids": removed})
        for kind, task_ids in by_kind.items():
            self._send(pipeline, "register", {**me, "task_ids": task_ids, "kind": int(kind)})
        if reads_all:
            self._is_notified = False
            self._pacing.begin_read()
            self._send(pipeline, "want_notification", me)
        pipeline.send(COMMIT)
        if reads_all or added:
            reading = "read_all" if reads_all else "read_some"
            self._send(pipeline, reading + suffix, {**me, "task_ids": list(added)})
        count = len(added) + len(removed) + reads_all * len(self._subscriptions)
        with _answer_within(connection, ANSWER_SECONDS + ANSWER_SECONDS_PER_TASK * count):
            failure, results = pipeline.receive()
        if failure is not None:
            raise failure
        self._last_heard = time.monotonic()
        if reads_all:
            self._pacing.end_read()
        if reads_all or added:
            self._deliver_rows(results[-1])
        if reads_all:
            self.has_read = True
            self._record_recovery()

    def _looks_for_older(self, connection: Connection) -> bool:
        with _answer_within(connection, ANSWER_SECONDS):
            return self._has_older(connection)

    def _deliver_rows(self, result: PGresult) -> None:
        """Deliver the rows that were read: of some tasks the id, of the others the record."""
        ids: list[str] = []
        moved: list[str] = []
        records: list[TaskRecord] = []
        for row in range(result.ntuples):
            if result.get_value(row, _IS_ID_ONLY) is None:
                moved.append((result.get_value(row, _ID) or b"").decode())
            elif read_bool(result.get_value(row, _IS_ID_ONLY)):
                ids.append((result.get_value(row, _ID) or b"").decode())
            else:
                records.append(binary.task_record(row_of(result, row)[_COLUMNS:]))
        if moved:
            # a task may have a row in both tables: what is fetched is the one that counts
            fetched = self._fetch(moved)
            records = [*(record for record in records if record.task_id not in fetched), *fetched.values()]
        self._deliver_ids(ids)
        self._deliver(records)

    def _send(self, pipeline: Pipeline, statement: str, row: dict[str, Any]) -> None:
        pipeline.send(self._statements[statement], self._statements[statement].values(row))

    def _until_read(self) -> float:
        return self._pacing.until_read(len(self._subscriptions))

    def _require_primary(self, connection: Connection) -> None:
        """If the server was silent for a while, test whether it answers and is the primary; raise if not."""
        if self._is_notified or time.monotonic() - self._last_heard < HEALTH_CHECK_SECONDS:
            return
        with _answer_within(connection, ANSWER_SECONDS):
            answer = connection.execute("SELECT pg_is_in_recovery()").fetchone()
        self._last_heard = time.monotonic()
        if answer == (True,):
            raise errors.StoreReadOnly(
                f"{connection.server} became a standby", where="listening", remedy="wait: rootcellar tries again"
            )

    # -- notifications

    def _await_notification(self, connection: Connection, seconds: float) -> None:
        """Sleep until a notification arrives, the thread is woken, or for ``seconds``."""
        self._take_notifications(connection)
        if not self._is_notified and self._sleep(seconds, connection.fileno()):
            self._take_notifications(connection)

    def _take_notifications(self, connection: Connection) -> None:
        """Take the notifications that arrived. libpq may have one in memory, for which the socket is not readable."""
        connection.pgconn.consume_input()
        while notification := connection.pgconn.notifies():
            self._record_notification(notification.be_pid)

    def _record_notification(self, sender: int) -> None:
        self._is_notified = True
        self._sender = sender

    @property
    def _channel(self) -> str:
        return f"rootcellar_{self._listener}"


@contextlib.contextmanager
def _answer_within(connection: Connection, seconds: float) -> Iterator[None]:
    """Wait for the server for at most ``seconds``; then another server may serve the waiting clients."""
    before = connection.silence
    connection.silence = min(driver.SILENCE, seconds)
    try:
        yield
    finally:
        connection.silence = before
