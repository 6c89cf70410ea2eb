"""Does a connection pooler pass notifications on? Only in session mode, and only a test shows it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from rootcellar import errors
from rootcellar.stores.postgres.driver import Connection, psycopg
from rootcellar.stores.postgres.pgbouncer import sessions_are_shared

#: seconds for each of the two steps of the test
STEP_SECONDS = 2.0


class PoolerProbe:
    """Tests whether notifications arrive on a connection through a pooler.

    Args:
        connect: opens another connection.
        wait: sleeps for at most so many seconds, until woken, or until one of the file descriptors can be read; polls
            before it sleeps, because results must not wait for a test that may fail.
        wake: ends the sleep of ``wait``.
    """

    def __init__(
        self, connect: Callable[[], Connection], wait: Callable[..., object], wake: Callable[[], None]
    ) -> None:
        self._connect = connect
        self._wait = wait
        self._wake = wake

    def passes_notifications(
        self, connection: Connection, channel: str, listen: Callable[[], None], sender: Callable[[], int | None]
    ) -> bool:
        """Return whether a notification arrives that is sent while the connection is idle.

        If sessions are shared, that is not tested: the LISTEN would stay in a session that others use.

        Args:
            connection: the connection.
            channel: its channel.
            listen: makes it listen on the channel.
            sender: takes what has arrived; returns the process id of the last notification's sender, ``None`` if there
                was no notification.
        """
        if not self._keeps_session(connection):
            return False
        listen()
        threading.Thread(target=self._notify, args=(channel,), name="rootcellar-notify", daemon=True).start()
        deadline = time.monotonic() + STEP_SECONDS
        while (found := sender()) is None and (left := deadline - time.monotonic()) > 0:
            self._wait(left, connection.fileno())
        if found is None:
            connection.execute(f'UNLISTEN "{channel}"')
        return found is not None

    def _keeps_session(self, connection: Connection) -> bool:
        """Return whether the connection keeps one session. A thread asks: a pooler without a free session blocks."""
        answers: list[bool] = []

        def ask() -> None:
            with contextlib.suppress(errors.StoreError, psycopg.Error), self._connect() as another:
                answers.append(not sessions_are_shared(connection, another))
            self._wake()

        thread = threading.Thread(target=ask, name="rootcellar-probe", daemon=True)
        thread.start()
        deadline = time.monotonic() + STEP_SECONDS
        while thread.is_alive() and (left := deadline - time.monotonic()) > 0:
            self._wait(left)
        return answers == [True]

    def _notify(self, channel: str) -> None:
        with contextlib.suppress(errors.StoreError, psycopg.Error), self._connect() as another:
            another.execute("SELECT pg_notify(%s, '')", [channel], prepare=False)
