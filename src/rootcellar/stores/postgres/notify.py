"""Waiting by notification: one connection for all that a process waits for.

A waiting process is a *listener*: a row with a flag ``armed``, and rows that say which tasks it waits for, and what it
is sent for each. A writer that has stored a result looks, after its commit, for armed listeners that wait for it,
clears their flag and *rings*: one NOTIFY on the listener's own channel. The listener sets its flag again, commits, and
then reads all that it waits for. A NOTIFY wakes every listening session of the database, whatever its channel, so there
is one for a burst of results, not for each.

No wake-up is lost: a result that is committed before the registration is seen by the read that follows the
registration; one that is committed later finds the registration. While the flag is down the next read is still to
come. A writer that finds the listener's row locked by another one rings as well, because the other one may die before
its commit. After an interruption the listener sets its flag and reads all, because a ring may have come while it
did not listen. After any loss of the connection everything is registered and read again, by a new listener: the server
may not have noticed yet that the old one is gone. A writer that dies between its commit and its ring leaves the result
to the safety look.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from psycopg.pq.abc import PGresult

from rootcellar import errors
from rootcellar.records import TaskRecord
from rootcellar.stores.postgres import binary, driver
from rootcellar.stores.postgres.driver import Connection, psycopg
from rootcellar.stores.postgres.pgbouncer import sessions_are_shared
from rootcellar.stores.postgres.pipeline import BEGIN, COMMIT, Pipeline, Statement, read_bool, row_of
from rootcellar.stores.replaced import when_replaced
from rootcellar.stores.sql import rows
from rootcellar.stores.watching import LINGER, Fetch, NotifyOn, PollingWatcher
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

_PIPELINED = ("register", "unregister", "arm", "read_all", "read_some")
#: the columns of what they read
_ID, _IS_ID_ONLY, _COLUMNS = range(3)

#: the most bytes of an id that an index of the server takes
LONGEST_ID = 2_600

#: seconds within which a pooler must show that it keeps a session for us and passes a notification on
SELF_TEST = 2.0
#: seconds for which we poll before we try again
DEAF_FOR = 600.0
#: seconds of silence after which the server is asked for a sign of life
SIGN_OF_LIFE = 5.0
#: seconds in which it must answer, and seconds more for each task that is registered or read
ANSWER = 5.0
ANSWER_FOR_ONE = 0.001
#: seconds between two looks at all that is waited for although nobody rang, at least and at most: a writer may die
#: after its commit and before it rings
SAFETY_LOOK = 5.0
LONGEST_SAFETY_LOOK = 60.0
#: between the two, such looks take one part of so many of the time
REST_OF_SAFETY_LOOK = 100.0
#: after a look, a ring waits this many seconds for each task that is waited for, and at most so many, for more results
PACE_OF_ONE = 0.0001
SLOWEST_PACE = 0.02
#: where many are waited for, it waits so many times as long as the look took, so that the server also stores
REST_OF_LOOK = 4.0
#: seconds after the last waiter left during which we still listen, to spare a busy client the ceremony
LISTEN_LINGER = 1.0
#: seconds to wait before connecting anew, at first and at most
FIRST_RECONNECT = 0.05
LONGEST_RECONNECT = 2.0


class ListeningWatcher(PollingWatcher):
    """Tells of results as the server rings; falls back to polling where notifications do not arrive.

    Args:
        connect: opens a connection of its own.
        fetch: reads records, for the fallback.
        statements: the statements of ``waiting.sql``.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        fetch: Fetch,
        statements: dict[str, str],
    ) -> None:
        super().__init__(fetch)
        self._name = "rootcellar-listen"
        self._connect = connect
        self._sql = statements
        self._statements = {name: Statement(name, statements[name]) for name in _PIPELINED if name in statements}
        self._listener = 0
        self._is_rung = False
        self._rung_by: int | None = None
        self._is_listening = False
        self._last_look = 0.0
        self._look_took = 0.0
        self._polls_until = 0.0
        #: what it listens on, when something was last heard there, and whether all was read since it was opened
        self._connection: Connection | None = None
        self._last_heard = 0.0
        self._has_read = False
        when_replaced(self._leave)

    def _serve(self) -> None:
        if time.monotonic() < self._polls_until:
            super()._serve()
            return
        pause = FIRST_RECONNECT
        while not self._is_closed:
            try:
                # closed without a rollback, for which a silent server would be waited again
                with contextlib.closing(self._connect()) as connection:
                    if not self._begin(connection):
                        logger.warning(
                            "Notifications do not come through the connection pooler. Polling instead; to be notified, "
                            "set listen_url in result_backend_transport_options to the server's own address."
                        )
                        self._polls_until = time.monotonic() + DEAF_FOR
                        break
                    self._serve_on(connection)
                    return
            except (errors.StoreError, psycopg.Error) as exc:
                error = exc if isinstance(exc, errors.StoreError) else driver.translate(exc, "listening")
                is_stale = isinstance(exc, psycopg.Error) and exc.sqlstate in driver.STALE
                if not (error.retryable or is_stale):
                    logger.warning("Cannot be notified of results: %s. Polling instead.", error)
                    break
                if self._is_idle():
                    return
                if self._has_read:
                    pause = FIRST_RECONNECT
                    self._has_read = False
                self._note_outage(error, "No connection to wait for results")
                if not isinstance(error, errors.StoreUnavailable):
                    # the server answers, but it is a standby, or the tables are not there or not as they were, which
                    # the store puts right when it reads
                    self._look()
                self._wait_before_connecting(pause)
                pause = min(pause * 2, LONGEST_RECONNECT)
        if not self._is_closed:
            super()._serve()

    def _can_exist(self, task_id: str) -> bool:
        return bool(rows.storable(task_id) == task_id) and len(task_id.encode()) <= LONGEST_ID

    # -- the life of the connection

    def _begin(self, connection: Connection) -> bool:
        """Become a listener; return whether notifications arrive."""
        self._listener = random.randrange(1, 2**31)
        self._is_listening = False
        self._connection = connection
        self._has_read = False
        connection.add_notify_handler(self._note_ring)
        if connection.is_pooled and not self._comes_through(connection):
            return False
        self._listen(connection)
        # not earlier: through a transaction pooler it would change a session that others store with
        connection.execute("SET synchronous_commit = off")
        connection.execute(self._sql["drop_dead_listeners"], {"listener": self._listener})
        connection.execute(self._sql["begin_listening"], {"listener": self._listener})
        with self._lock:
            self._all_are_fresh()
        self._last_heard = time.monotonic()
        return True

    def _leave(self, server: str) -> None:
        """Give up the connection to a server that was replaced."""
        connection = self._connection
        if connection is not None and connection.server == server and self.is_of_this_process():
            connection.give_up()
            self._wake()

    def _comes_through(self, connection: Connection) -> bool:
        """Tell whether a pooler passes on a notification that comes while we do nothing, as in session mode it does.

        Not tried where sessions are seen to be shared: the LISTEN would stay behind in one that others use.
        """
        if not self._is_seen_soon(lambda: self._keeps_a_session(connection)):
            return False
        self._rung_by = None
        self._listen(connection)
        threading.Thread(target=self._ring_from_elsewhere, name="rootcellar-ring", daemon=True).start()
        if self._poll_or_await_notification(connection):
            return True
        connection.execute(f'UNLISTEN "{self._channel}"')
        return False

    def _is_seen_soon(self, look: Callable[[], bool]) -> bool:
        """Look aside, for a pooler that has no session to spare makes us wait; meanwhile nobody who waits is kept."""
        seen: list[bool] = []

        def look_aside() -> None:
            with contextlib.suppress(errors.StoreError, psycopg.Error):
                seen.append(look())
            self._wake()

        thread = threading.Thread(target=look_aside, name="rootcellar-look", daemon=True)
        thread.start()
        deadline = time.monotonic() + SELF_TEST
        while thread.is_alive() and (left := deadline - time.monotonic()) > 0:
            self._look()
            self._sleep(min(left, self._pause()))
        return seen == [True]

    def _keeps_a_session(self, connection: Connection) -> bool:
        with self._connect() as another:
            return not sessions_are_shared(connection, another)

    def _ring_from_elsewhere(self) -> None:
        with contextlib.suppress(errors.StoreError, psycopg.Error), self._connect() as another:
            another.execute("SELECT pg_notify(%s, '')", [self._channel], prepare=False)

    def _poll_or_await_notification(self, connection: Connection) -> bool:
        deadline = time.monotonic() + SELF_TEST
        self._take_rings(connection)
        while self._rung_by is None and (left := deadline - time.monotonic()) > 0:
            # nobody is kept waiting by a ring that may never come
            self._look()
            self._sleep(min(left, self._pause()), connection.fileno())
            self._take_rings(connection)
        return self._rung_by is not None

    def _serve_on(self, connection: Connection) -> None:
        """Tell what comes; return once nobody has waited for long, or the watcher is closed."""
        idle_since: float | None = None
        while not self._is_closed:
            if connection.is_given_up:
                raise errors.StoreUnavailable(
                    f"{connection.server} was replaced", where="listening", remedy="wait: it is tried again by itself"
                )
            if self._is_idle():
                idle_since = idle_since or time.monotonic()
                if time.monotonic() - idle_since >= LINGER:
                    break
                if self._is_listening and time.monotonic() - idle_since >= LISTEN_LINGER:
                    self._stop_listening(connection)
                # a ring is noted and answered with the next exchange: for whoever is gone nothing is read
                self._sleep(LISTEN_LINGER if self._is_listening else LINGER, connection.fileno())
                self._take_rings(connection)
                continue
            idle_since = None
            self._listen(connection)
            self._exchange(connection)
            # also while others begin to wait all the time, which would put it off
            self._take_rings(connection)
            if self._fresh:
                continue
            if self._is_rung:
                self._sleep(max(0.0, self._until_answer()))
            else:
                self._await_ring(connection, min(SIGN_OF_LIFE, max(0.0, self._until_safety_look())))
                self._see_that_it_is_there(connection)
        connection.execute(self._sql["end_listening"], {"listener": self._listener})

    def _listen(self, connection: Connection) -> None:
        if not self._is_listening:
            with _silent_for(connection, ANSWER):
                connection.execute(f'LISTEN "{self._channel}"')
            self._is_listening = True
            # a ring that came before was not heard
            self._is_rung = True

    def _stop_listening(self, connection: Connection) -> None:
        self._exchange(connection)
        with _silent_for(connection, ANSWER):
            connection.execute(f'UNLISTEN "{self._channel}"')
        self._is_listening = False

    # -- one turn

    def _exchange(self, connection: Connection) -> None:
        """Register what is new, arm, commit; then read and tell."""
        fresh, gone = self._take_news()
        reads_all = self._is_answer_due() or self._until_safety_look() <= 0
        if not (fresh or gone or reads_all):
            return
        by_kind: defaultdict[NotifyOn, list[str]] = defaultdict(list)
        for task_id, tell in fresh.items():
            by_kind[tell].append(task_id)
        me = {"listener": self._listener}
        pipeline = Pipeline(connection)
        pipeline.send(BEGIN)
        if gone:
            self._send(pipeline, "unregister", {**me, "task_ids": gone})
        for tell, task_ids in by_kind.items():
            self._send(pipeline, "register", {**me, "task_ids": task_ids, "kind": int(tell)})
        if reads_all:
            self._is_rung = False
            self._last_look = time.monotonic()
            self._send(pipeline, "arm", me)
        pipeline.send(COMMIT)
        if reads_all or fresh:
            self._send(pipeline, "read_all" if reads_all else "read_some", {**me, "task_ids": list(fresh)})
        count = len(fresh) + len(gone) + reads_all * len(self._subscriptions)
        with _silent_for(connection, ANSWER + ANSWER_FOR_ONE * count):
            failure, results = pipeline.settle()
        if failure is not None:
            raise failure
        self._last_heard = time.monotonic()
        if reads_all or fresh:
            self._tell_read(results[-1])
        if reads_all:
            self._look_took = self._last_heard - self._last_look
            self._has_read = True
            self._note_recovery()

    def _tell_read(self, result: PGresult) -> None:
        """Tell what was read: of some tasks that they are ready, of the others the record."""
        ids: list[str] = []
        records: list[TaskRecord] = []
        for row in range(result.ntuples):
            if read_bool(result.get_value(row, _IS_ID_ONLY)):
                ids.append((result.get_value(row, _ID) or b"").decode())
            else:
                records.append(binary.task_record(row_of(result, row)[_COLUMNS:]))
        self._tell_ready(ids)
        self._tell(records)

    def _send(self, pipeline: Pipeline, statement: str, row: dict[str, Any]) -> None:
        pipeline.send(self._statements[statement], self._statements[statement].values(row))

    def _is_answer_due(self) -> bool:
        return self._is_rung and self._until_answer() <= 0

    def _until_answer(self) -> float:
        """Return the seconds until a ring is answered: in a burst of results, one look finds many."""
        slowest = max(SLOWEST_PACE, self._look_took * REST_OF_LOOK)
        pace = min(len(self._subscriptions) * PACE_OF_ONE, slowest)
        return self._last_look + pace - time.monotonic()

    def _until_safety_look(self) -> float:
        """Return the seconds until all that is waited for is looked at although nobody rang."""
        pause = max(SAFETY_LOOK, min(self._look_took * REST_OF_SAFETY_LOOK, LONGEST_SAFETY_LOOK))
        return self._last_look + pause - time.monotonic()

    def _see_that_it_is_there(self, connection: Connection) -> None:
        """Ask a server that is silent whether it is there, and whether it is the primary."""
        if self._is_rung or time.monotonic() - self._last_heard < SIGN_OF_LIFE:
            return
        with _silent_for(connection, ANSWER):
            answer = connection.execute("SELECT pg_is_in_recovery()").fetchone()
        self._last_heard = time.monotonic()
        if answer == (True,):
            raise errors.StoreReadOnly(
                f"{connection.server} became a standby", where="listening", remedy="wait: it is tried again by itself"
            )

    def _await_ring(self, connection: Connection, seconds: float) -> None:
        """Sleep until rung, woken, or for ``seconds``."""
        self._take_rings(connection)
        if not self._is_rung and self._sleep(seconds, connection.fileno()):
            self._take_rings(connection)

    def _take_rings(self, connection: Connection) -> None:
        """Take what has arrived; a notification may lie in libpq where no look at the socket would find it."""
        connection.pgconn.consume_input()
        while ring := connection.pgconn.notifies():
            self._is_rung = True
            self._rung_by = ring.be_pid

    def _note_ring(self, ring: psycopg.Notify) -> None:
        self._is_rung = True
        self._rung_by = ring.pid

    @property
    def _channel(self) -> str:
        return f"rootcellar_{self._listener}"


@contextlib.contextmanager
def _silent_for(connection: Connection, seconds: float) -> Iterator[None]:
    """Give the server up earlier than elsewhere: another server serves a waiting client sooner."""
    before = connection.silence
    connection.silence = min(driver.SILENCE, seconds)
    try:
        yield
    finally:
        connection.silence = before
