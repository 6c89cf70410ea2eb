"""Tests whether a connection pooler passes notifications on. It does so only in session mode."""

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
        wait: sleeps for at most the given seconds, until woken, or until one of the file descriptors can be read. It
            polls before it sleeps, because results must not wait for a test that may fail.
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

        If sessions are shared, this is not tested, because the LISTEN would stay in a session of other clients.

        Args:
            connection: the connection.
            channel: its channel.
            listen: makes the connection listen on the channel.
            sender: takes the notifications that arrived, and returns the process id of the last one's sender; ``None``
                if there was no notification.
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
        """Return whether the connection keeps one session. A thread asks: a pooler without a free session blocks it."""
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
