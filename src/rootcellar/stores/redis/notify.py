"""Waiting by pub/sub: one connection for all that a process waits for.

Whoever stores a result publishes it on a channel that is called as its key, as Celery does: ours and stock clients wake
each other. A waiting process subscribes to the channels of all tasks that it waits for, and when the server has said
that it did, reads them: a result that was stored before is read, one that is stored later is heard. After any loss of
the connection everything is subscribed and read again. The server drops a listener that is slow to take large results;
this is such a loss.
"""

from __future__ import annotations

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
from rootcellar.stores.replaced import tell_replaced, when_replaced
from rootcellar.stores.watching import LINGER, Fetch, PollingWatcher
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

#: seconds of silence after which the server is asked whether it is there, and in which it must answer
SILENCE = 5.0
#: seconds to wait before connecting anew, at first and at most
FIRST_RECONNECT = 0.05
LONGEST_RECONNECT = 2.0
#: where some tasks cannot be read, the others have so many times as long as it took to find that out
REST_OF_READ = 4.0
#: channels that are named in one command
_CHANNELS = 1_000
#: channels after which the server's answers are heard before others are named: it drops who lets 32 MB of them lie
_ANSWERS = 10_000


class ListeningWatcher(PollingWatcher):
    """Tells of results as they are published; falls back to polling where the server does not let us listen.

    Args:
        servers: where to listen.
        fetch: reads records.
        keys: what the channels are called.
        where: the server, for people.
    """

    def __init__(self, servers: Servers, fetch: Fetch, keys: Keys, where: str) -> None:
        super().__init__(fetch)
        self._name = "rootcellar-listen"
        self._servers = servers
        self._keys = keys
        self._where = where
        self._subscribed: set[str] = set()
        self._answers_due = 0
        self._last_heard = 0.0
        self._asked_at: float | None = None
        self._last_look = 0.0
        #: where the connection leads to, and whether that was replaced
        self._leads_to = ""
        self._is_replaced = False
        self._checking: threading.Thread | None = None
        self._last_check = 0.0
        #: tasks that cannot be read at present, each with its server; when they are read again
        self._unread: dict[str, Hashable] = {}
        self._read_again_at = 0.0
        self._read_pause = 0.0
        #: whether all that is waited for was read since the connection was opened
        self._has_read = False
        when_replaced(self._leave)

    def _serve(self) -> None:
        pause = FIRST_RECONNECT
        while not self._is_closed:
            try:
                line = self._servers.listen()
                try:
                    self._begin(line)
                    self._serve_on(line)
                    return
                finally:
                    line.close()
            except (errors.StoreError, *driver.FAILURES) as exc:
                error = driver.translate(exc, self._where)
                if not error.retryable:
                    logger.warning("Cannot be notified of results: %s. Polling instead.", error)
                    break
                if self._is_idle():
                    return
                if self._has_read:
                    pause = FIRST_RECONNECT
                    self._has_read = False
                self._note_outage(error, "No connection to wait for results")
                self._wait_before_connecting(pause)
                pause = min(pause * 2, LONGEST_RECONNECT)
        if not self._is_closed:
            super()._serve()

    def _begin(self, line: RespConnection) -> None:
        self._leads_to, self._is_replaced = line.address, False
        self._unread = {}
        self._read_pause = 0.0
        self._has_read = False
        self._subscribed = set()
        self._answers_due = 0
        self._asked_at = None
        self._last_heard = self._last_look = self._last_check = time.monotonic()
        with self._lock:
            self._all_are_fresh()

    def _serve_on(self, line: RespConnection) -> None:
        """Tell what comes; return once nobody has waited for long, or the watcher is closed."""
        idle_since: float | None = None
        while not self._is_closed:
            self._look_at_news(line)
            if not self._is_idle():
                idle_since = None
            else:
                idle_since = idle_since or time.monotonic()
                if time.monotonic() - idle_since >= LINGER:
                    return
            if not self._fresh:
                self._hear(line, self._until_next())
                self._see_that_it_is_there(line)
            self._read_put_off()
            if time.monotonic() - self._last_look >= self._servers.safety_look:
                self._read(self._waited_for())

    def _until_next(self) -> float:
        """Return the seconds after which there is something to do although nothing is heard."""
        if not self._unread:
            return SILENCE
        return min(SILENCE, max(0.0, self._read_again_at - time.monotonic()))

    # -- subscribing

    def _look_at_news(self, line: RespConnection) -> None:
        """Subscribe to what is new, and when the server says that it did, read it; leave what nobody waits for."""
        fresh, gone = self._take_news()
        leaving = [task_id for task_id in gone if task_id in self._subscribed]
        joining = [task_id for task_id in fresh if task_id not in self._subscribed]
        for some in chunks(leaving, _CHANNELS):
            self._say(line, b"UNSUBSCRIBE", some)
        self._subscribed.difference_update(leaving)
        for some in chunks(joining, _CHANNELS):
            self._say(line, b"SUBSCRIBE", some)
        self._subscribed.update(joining)
        self._hear_answers(line)
        if fresh:
            self._read(list(fresh))

    def _say(self, line: RespConnection, command: bytes, task_ids: Sequence[str]) -> None:
        line.send(pack(command, *map(self._keys.task, task_ids)))
        self._answers_due += len(task_ids)
        if self._answers_due >= _ANSWERS:
            self._hear_answers(line)

    def _hear_answers(self, line: RespConnection) -> None:
        while self._answers_due and not self._is_closed:
            self._hear(line, SILENCE)
            self._see_that_it_is_there(line)

    # -- reading

    def _by_server(self, task_ids: Sequence[str]) -> Iterable[tuple[Hashable, Sequence[str]]]:
        for server, places in self._servers.by_server([self._keys.task(task_id) for task_id in task_ids]):
            yield server, [task_ids[place] for place in places]

    def _read(self, task_ids: Sequence[str]) -> None:
        """Read records and deliver them; what cannot be read is read later, and holds up nothing else."""
        if len(task_ids) >= len(self._subscribed):
            self._last_look = time.monotonic()
        began = time.monotonic()
        # not those that did not answer a moment ago
        skipped = set(self._unread.values()) if began < self._read_again_at else set()
        unread = self._read_reachable(task_ids, skipped)
        for task_id in task_ids:
            self._unread.pop(task_id, None)
        self._unread.update(unread)
        if not self._unread:
            self._read_pause = self._read_again_at = 0.0
            self._has_read = True
            self._note_recovery()
        elif unread and not skipped:
            self._read_pause = min(max(self._read_pause * 2, FIRST_RECONNECT), LONGEST_RECONNECT)
            # where a server takes long to say nothing, most of the time is for the others
            took = time.monotonic() - began
            self._read_again_at = time.monotonic() + max(self._read_pause, took * REST_OF_READ)

    def _read_put_off(self) -> None:
        """Read again what could not be read, if it is time."""
        if self._unread and time.monotonic() >= self._read_again_at:
            left, self._unread = self._unread, {}
            self._read([task_id for task_id in left if task_id in self._subscriptions])

    # -- hearing

    def _hear(self, line: RespConnection, seconds: float) -> None:
        """Sleep until something comes, somebody wakes us, or for ``seconds``; tell what came."""
        if not self._sleep(seconds, line.fileno()):
            return
        replies = line.receive()
        if replies:
            self._last_heard, self._asked_at = time.monotonic(), None
        told, hinted = self._understand(replies)
        if told:
            self._tell(told)
        if hinted:
            self._read(hinted)

    def _understand(self, replies: Iterable[Reply]) -> tuple[list[TaskRecord], list[str]]:
        """Return the records that were published, and the ids of tasks of which only news was."""
        told: list[TaskRecord] = []
        hinted: dict[str, None] = {}
        for reply in replies:
            if isinstance(reply, ServerError):
                raise reply
            if not isinstance(reply, list):
                continue
            if reply[0] in (b"subscribe", b"unsubscribe"):
                self._answers_due -= 1
            elif reply[0] == b"message":
                _, channel, news = reply
                task_id = self._keys.task_id(channel)
                if len(news) > 1:
                    told.append(json_blob.decode_task(task_id, news))
                else:
                    hinted[task_id] = None
        return told, list(hinted)

    def _see_that_it_is_there(self, line: RespConnection) -> None:
        """Ask a server that is silent whether it is there, and others whether it is the master.

        A connection may be dead without a word; and a server that was replaced may answer all the same.
        """
        if self._is_replaced:
            raise errors.StoreUnavailable(
                f"{self._leads_to} was replaced as the master",
                where=self._where,
                remedy="wait: it is tried again by itself",
            )
        now = time.monotonic()
        if self._servers.may_be_replaced and now - self._last_check >= SILENCE and self._checking is None:
            self._last_check = now
            self._checking = threading.Thread(target=self._check_master, name="rootcellar-master", daemon=True)
            self._checking.start()
        # the time since it was asked counts: before, it may have been us who did not listen
        if self._asked_at is None:
            if now - self._last_heard >= SILENCE:
                line.send(pack(b"PING"))
                self._asked_at = now
        elif now - self._asked_at >= SILENCE:
            raise ConnectionLost(f"the server has been silent for {now - self._last_heard:.0f} s")

    def _check_master(self) -> None:
        """Ask the others, in a thread: some of them may be silent."""
        address = self._leads_to
        try:
            if self._servers.is_replaced(address):
                tell_replaced(address)
        except errors.RootcellarError as exc:
            logger.debug("Nobody says whether %s is the master: %s", address, exc)
        finally:
            self._checking = None

    def _leave(self, address: str) -> None:
        """Give up the connection to a server that was replaced."""
        if address == self._leads_to and self.is_of_this_process():
            self._is_replaced = True
            self._wake()
