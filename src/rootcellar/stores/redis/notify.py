"""Notifications by pub/sub: one connection for all tasks that a process waits for.

A result is published on a channel with the name of its key, as Celery does, so that clients of Celery and of rootcellar
notify each other. A waiting process subscribes to the channels of its tasks, waits until the server has confirmed that,
and then reads the tasks. So it reads an earlier result, and gets a message of a later one. After the connection was
lost, it subscribes and reads everything again. The server also closes the connection of a client that is too slow for
large results.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Hashable, Iterable, Sequence

from rootcellar import errors
from rootcellar.records import TaskRecord
from rootcellar.stores.framing import chunks
from rootcellar.stores.layouts import json_blob
from rootcellar.stores.redis import driver
from rootcellar.stores.redis.connection import ConnectionLost, Reply, RespConnection, ServerError, pack
from rootcellar.stores.redis.keys import Keys
from rootcellar.stores.redis.servers import Servers
from rootcellar.stores.replaced import report_replaced, when_replaced
from rootcellar.stores.watching import LINGER, Fetch, ReconnectingWatcher
from rootcellar.support.backoff import Backoff
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

#: seconds without a message after which a PING is sent, and seconds in which the server must answer it
SILENCE = 5.0
#: milliseconds before tasks that could not be read are read again: the first pause, and the longest one
FIRST_REREAD_MS = 50.0
LONGEST_REREAD_MS = 2_000.0
#: after a read that failed, the pause is this many times its duration, so that there is time for the other tasks
REREAD_SHARE = 4.0
#: the most channels in one command
_MAX_CHANNELS = 1_000
#: replies to read before more channels are sent: Redis disconnects a client with more than 32 MB of unread output
_MAX_REPLIES_DUE = 10_000


class ListeningWatcher(ReconnectingWatcher[RespConnection]):
    """Delivers results as they are published; polls if the server refuses SUBSCRIBE.

    Args:
        servers: the servers on which results are published.
        fetch: reads records.
        keys: the names of the channels.
        where: the server, for messages.
    """

    failures = (errors.StoreError, *driver.FAILURES)

    def __init__(self, servers: Servers, fetch: Fetch, keys: Keys, where: str) -> None:
        super().__init__(fetch)
        self._servers = servers
        self._keys = keys
        self._where = where
        self._subscribed: set[str] = set()
        self._replies_due = 0
        self._pinged_at: float | None = None
        self._last_read = 0.0
        #: the server of the connection, and whether it was replaced as the master
        self._leads_to = ""
        self._is_replaced = False
        self._checking: threading.Thread | None = None
        self._last_check = 0.0
        #: tasks that cannot be read at present, each with its server
        self._unread: dict[str, Hashable] = {}
        #: the monotonic time when they are read again, and how many times they were
        #: the monotonic time when they are read again, and how many times they were
        self._reread_at = 0.0
        self._rereads = 0
        self._reread = Backoff(FIRST_REREAD_MS, LONGEST_REREAD_MS)
        when_replaced(self._give_up_replaced)

    def _connect(self) -> contextlib.AbstractContextManager[RespConnection]:
        return contextlib.closing(self._servers.listen())

    def _explain(self, exc: Exception) -> errors.RootcellarError:
        return driver.translate(exc, self._where)

    def _prepare(self, connection: RespConnection) -> bool:
        self._leads_to, self._is_replaced = connection.address, False
        self._unread = {}
        self._rereads = 0
        self.has_read = False
        self._subscribed = set()
        self._replies_due = 0
        self._pinged_at = None
        self._last_heard = self._last_read = self._last_check = time.monotonic()
        with self._lock:
            self._table.add_all_again()
        return True

    def _serve_on(self, connection: RespConnection) -> None:
        while not self._is_closed:
            self._subscribe_changes(connection)
            if self._measure_idle() >= LINGER:
                return
            if not self._table.added:
                self._receive(connection, self._seconds_until_next())
                self._require_answers(connection)
            self._reread_if_due()
            if time.monotonic() - self._last_read >= self._servers.safety_read_seconds:
                self._read(self._awaited_ids())

    def _seconds_until_next(self) -> float:
        """Return the seconds after which there is something to do even if no message arrives."""
        if not self._unread:
            return SILENCE
        return min(SILENCE, max(0.0, self._reread_at - time.monotonic()))

    # -- subscribing

    def _subscribe_changes(self, connection: RespConnection) -> None:
        """Subscribe to the tasks that were added, and read them after the server has confirmed; leave those removed."""
        added, removed = self._take_changes()
        leaving = [task_id for task_id in removed if task_id in self._subscribed]
        joining = [task_id for task_id in added if task_id not in self._subscribed]
        for some in chunks(leaving, _MAX_CHANNELS):
            self._send(connection, b"UNSUBSCRIBE", some)
        self._subscribed.difference_update(leaving)
        for some in chunks(joining, _MAX_CHANNELS):
            self._send(connection, b"SUBSCRIBE", some)
        self._subscribed.update(joining)
        self._receive_replies(connection)
        if added:
            self._read(list(added))

    def _send(self, connection: RespConnection, command: bytes, task_ids: Sequence[str]) -> None:
        connection.send(pack(command, *map(self._keys.task, task_ids)))
        self._replies_due += len(task_ids)
        if self._replies_due >= _MAX_REPLIES_DUE:
            self._receive_replies(connection)

    def _receive_replies(self, connection: RespConnection) -> None:
        while self._replies_due and not self._is_closed:
            self._receive(connection, SILENCE)
            self._require_answers(connection)

    # -- reading

    def _by_server(self, task_ids: Sequence[str]) -> Iterable[tuple[Hashable, Sequence[str]]]:
        for server, places in self._servers.by_server([self._keys.task(task_id) for task_id in task_ids]):
            yield server, [task_ids[place] for place in places]

    def _read(self, task_ids: Sequence[str]) -> None:
        """Read records and deliver them. Tasks that cannot be read now are read later, and do not delay other tasks."""
        if len(task_ids) >= len(self._subscribed):
            self._last_read = time.monotonic()
        began = time.monotonic()
        # servers that did not answer a moment ago are not asked
        skipped = set(self._unread.values()) if began < self._reread_at else set()
        unread = self._read_reachable(task_ids, skipped)
        for task_id in task_ids:
            self._unread.pop(task_id, None)
        self._unread.update(unread)
        if not self._unread:
            self._rereads = 0
            self._reread_at = 0.0
            self.has_read = True
            self._record_recovery()
        elif unread and not skipped:
            self._rereads += 1
            # a server that fails only after a long time must not take most of the time
            took = time.monotonic() - began
            self._reread_at = time.monotonic() + max(self._reread.before(self._rereads), took * REREAD_SHARE)

    def _reread_if_due(self) -> None:
        """Read the tasks again that could not be read, if the pause is over."""
        if self._unread and time.monotonic() >= self._reread_at:
            left, self._unread = self._unread, {}
            self._read([task_id for task_id in left if task_id in self._subscriptions])

    # -- receiving

    def _receive(self, connection: RespConnection, seconds: float) -> None:
        """Sleep until a message arrives, the thread is woken, or for ``seconds``; deliver what arrived."""
        if not self._sleep(seconds, connection.fileno()):
            return
        replies = connection.receive()
        if replies:
            self._last_heard, self._pinged_at = time.monotonic(), None
        published, changed_ids = self._parse(replies)
        if published:
            self._deliver(published)
        if changed_ids:
            self._read(changed_ids)

    def _parse(self, replies: Iterable[Reply]) -> tuple[list[TaskRecord], list[str]]:
        """Return the records that were published, and the ids of the tasks whose message contains no record."""
        published: list[TaskRecord] = []
        changed_ids: dict[str, None] = {}
        for reply in replies:
            if isinstance(reply, ServerError):
                raise reply
            if not isinstance(reply, list):
                continue
            if reply[0] in (b"subscribe", b"unsubscribe"):
                self._replies_due -= 1
            elif reply[0] == b"message":
                _, channel, message = reply
                task_id = self._keys.task_id(channel)
                if len(message) > 1:
                    published.append(json_blob.decode_task(task_id, message))
                else:
                    changed_ids[task_id] = None
        return published, list(changed_ids)

    def _require_answers(self, connection: RespConnection) -> None:
        """Raise if the server is silent or is not the master any more.

        A connection may be lost without an error, and a server that was replaced as the master may still answer.
        """
        if self._is_replaced:
            raise errors.StoreUnavailable(
                f"{self._leads_to} was replaced as the master",
                where=self._where,
                remedy="wait: rootcellar tries again",
            )
        now = time.monotonic()
        if self._servers.may_be_replaced and now - self._last_check >= SILENCE and self._checking is None:
            self._last_check = now
            self._checking = threading.Thread(target=self._check_master, name="rootcellar-master", daemon=True)
            self._checking.start()
        # only the time since the PING counts, because this thread may have been busy before it
        if self._pinged_at is None:
            if now - self._last_heard >= SILENCE:
                connection.send(pack(b"PING"))
                self._pinged_at = now
        elif now - self._pinged_at >= SILENCE:
            raise ConnectionLost(f"the server has been silent for {now - self._last_heard:.0f} s")

    def _check_master(self) -> None:
        """Ask the other servers, in a thread of its own: some of them may not answer."""
        address = self._leads_to
        try:
            if self._servers.is_replaced(address):
                report_replaced(address)
        except errors.RootcellarError as exc:
            logger.debug("No server answered whether %s is the master: %s", address, exc)
        finally:
            self._checking = None

    def _give_up_replaced(self, address: str) -> None:
        """Give up the connection if its server was replaced as the master."""
        if address == self._leads_to and self.is_of_this_process():
            self._is_replaced = True
            self._wake()
