"""Group commit: threads and greenlets that store at the same moment share one commit.

A *turn* writes and commits some records. The first thread leads a turn. While it runs, the records of other threads
wait in a queue. One of these threads leads the next turn, which writes them::

                      no leader                       turn begins             committed
    join(write) ─┬──────────────────> leader ───────────────────────> writing ────────────> done
                 │                      ^                                                     ^
                 │ another one leads    │ hand_over                                           │
                 └──────────────────> queue ───────────────────────> follower ────────────────┘
                                             the leader takes it         the leader writes it

    interrupted in any state: leave(), and the next thread in the queue leads

A turn is one pipeline: one transaction with all of its records, and after the commit a notification to the clients that
wait for them. The server writes to its disk before it answers, unless no record of the turn needs that. Records are
sorted by chord and task, so that two processes never lock the same rows in opposite order.

An interruption (a soft time limit, Ctrl-C, a greenlet's timeout) may come at any line. So ``leave`` and ``hand_over``
are idempotent, and a thread whose record was not written tries again. During its call, each thread holds a lock of its
own by ``with``. If the lock of the leader is free, the leader was interrupted before it could hand over, and another
thread hands over for it.
"""

from __future__ import annotations

import logging
import threading

from psycopg.pq.abc import PGresult

from rootcellar import errors
from rootcellar.stores.pool import ConnectionPool
from rootcellar.stores.postgres.driver import Connection, psycopg
from rootcellar.stores.postgres.guarding import group_of, groups_of
from rootcellar.stores.postgres.pipeline import (
    BEGIN,
    BEGIN_GUARDED,
    COMMIT,
    ROLLBACK,
    Pipeline,
    Statement,
    Values,
    row_of,
)
from rootcellar.support.forking import PerProcess
from rootcellar.support.gates import Gate
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

#: the error of a record that was not written yet
_UNANSWERED = errors.StoreUnavailable("not written yet")

_RELAX = Statement("relax", "SET LOCAL synchronous_commit = off")
_NOTIFY_FORMATS = [1, 0]
_TEXT = [0]

#: the types of a record's parameters
_PARAMETERS = frozenset({bytes, type(None)})
#: the exceptions of the driver and of this package for a record that cannot be sent
_UNSENDABLE = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)

#: the most records in one turn
MAX_BATCH = 200


class Write:
    """One record that is to be written.

    Args:
        task_id: the task; empty if only a part of a chord is counted.
        statement: the statement that stores the record.
        values: the statement's parameters.
        sort_key: the key by which the records of a turn are sorted. All processes lock rows in this order.
        is_durable: whether the record must be on the disk when the call returns.
        is_ready: whether the task has ended. Most clients wait for that.
        is_guarded: whether nobody may bury the task at the same moment; see ``guarding.py``.

    Raises:
        RecordRefused: a parameter or a part of ``sort_key`` has another type. It would make records of other threads
            fail that are written in the same turn.
    """

    __slots__ = (
        "answer",
        "count",
        "error",
        "gate",
        "is_alone",
        "is_durable",
        "is_guarded",
        "is_ready",
        "sort_key",
        "statement",
        "task_id",
        "values",
        "waiting_lock",
    )

    def __init__(
        self,
        task_id: str,
        statement: Statement,
        values: Values,
        sort_key: tuple[str, str],
        *,
        is_durable: bool,
        is_ready: bool,
        is_guarded: bool = False,
    ) -> None:
        is_text = type(task_id) is str and type(sort_key[0]) is str and type(sort_key[1]) is str
        if not is_text or not _PARAMETERS.issuperset(map(type, values[0])):
            raise errors.RecordRefused(
                f"a field of task {task_id!a} has another type than the store takes",
                remedy="correct the code that stores it: ids are text",
            )
        self.task_id = task_id
        self.sort_key = sort_key
        self.statement = statement
        self.values = values
        self.is_durable = is_durable
        self.is_ready = is_ready
        self.is_guarded = is_guarded
        self.count = 0
        self.answer: tuple[bytes | None, ...] = ()
        self.error: Exception | None = _UNANSWERED
        #: whether it is written without others, because a batch that it was in failed
        self.is_alone = False
        #: opened when it was written, or when it is to lead
        self.gate = Gate()
        #: held for as long as its thread waits for it
        self.waiting_lock = threading.Lock()

    @property
    def is_awaited(self) -> bool:
        """Whether its thread still waits for it."""
        return self.waiting_lock.locked()

    def record_answer(self, result: PGresult) -> None:
        """Store the answer, after the commit."""
        self.error = None
        self.count = result.command_tuples or 0
        self.answer = row_of(result) if result.ntuples else ()


class _Turns:
    """The leader of a turn, its followers, and the queue of the next turn, in one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: the record whose thread leads the turn, the other records of the turn, and those of the next one
        self.leader: Write | None = None
        self._followers: list[Write] = []
        self.queue: list[Write] = []

    def join(self, write: Write) -> None:
        """Make ``write`` the leader if there is none; otherwise add it to the queue."""
        with self._lock:
            if self.leader is None:
                self.leader = write
            else:
                write.gate.close()
                self.queue.append(write)

    def take_followers(self, leader: Write) -> list[Write]:
        """Begin the turn of ``leader``; return the other records of the turn."""
        with self._lock:
            if not self.queue:
                self._followers = []
                return self._followers
            next_ones = [write for write in self.queue if write.is_awaited and write is not leader]
            count = 0 if leader.is_alone else _turn_size(next_ones)
            self._followers = next_ones[:count]
            self.queue = next_ones[count:]
            return self._followers

    def leave(self, write: Write) -> None:
        """Remove a record from the queue, or hand over if it leads, so that no other thread waits for it."""
        with self._lock:
            if write in self.queue and self.leader is not write:
                self.queue.remove(write)
        self.hand_over(write)

    def hand_over(self, leader: Write) -> None:
        """End the turn, and let the next record lead. Idempotent, also after an interruption at any line."""
        with self._lock:
            if self.leader is leader:
                for follower in self._followers:
                    follower.gate.open()
                self._followers = []
                self.leader = next((write for write in self.queue if write.is_awaited), None) if self.queue else None
            if self.leader is not None:
                if self.leader in self.queue:
                    self.queue.remove(self.leader)
                self.leader.gate.open()

    def replace_absent_leader(self) -> None:
        """Hand over if the leader was interrupted before it did so."""
        leader = self.leader
        if leader is not None and not leader.is_awaited:
            self.hand_over(leader)


class GroupCommit:
    """Writes the records of any number of threads in as few commits as possible.

    Args:
        pool: lends the connections.
        notify: the statement that notifies waiting listeners, with the parameters ``task_ids`` and ``ready_ids``.
        notify_for_one: the same for one task, with the parameters ``task_id`` and ``is_ready``, in this order.
        guard: the statement that keeps others from burying tasks, with the parameter ``groups``.
        guard_for_one: the same for one task, with the parameter ``group``.
    """

    def __init__(
        self,
        pool: ConnectionPool[Connection],
        notify: Statement,
        notify_for_one: Statement,
        guard: Statement,
        guard_for_one: Statement,
    ) -> None:
        self._pool = pool
        self._guard = guard
        self._guard_for_one = guard_for_one
        self._notify = notify
        self._notify_for_one = notify_for_one
        self._turns = PerProcess(_Turns)

    @property
    def waiting(self) -> int:
        """The number of records that wait for the next turn."""
        return len(self._turns.get().queue)

    def write(self, write: Write) -> None:
        """Store a record; return when it is committed, with the statement's ``count`` and ``answer`` in ``write``.

        Raises:
            psycopg.Error: the server refused this record, or the connection was lost.
            StoreError: no connection could be opened.
        """
        turns = self._turns.get()
        with write.waiting_lock:
            while write.error is _UNANSWERED:
                try:
                    self._join(turns, write)
                    if write.error is _UNANSWERED:
                        # the leader was interrupted
                        turns.leave(write)
                except BaseException:
                    turns.leave(write)
                    raise
        if write.error is not None:
            raise write.error

    def _join(self, turns: _Turns, write: Write) -> None:
        """Lead a turn, or wait until another thread has written this record in its turn."""
        turns.join(write)
        while turns.leader is not write:
            # opened by the leader, when it has written this record or hands over
            if write.gate.wait():
                break
            turns.replace_absent_leader()
        if turns.leader is write:
            self._write_together([write, *turns.take_followers(write)])
            turns.hand_over(write)

    def _write_together(self, batch: list[Write]) -> None:
        try:
            with self._pool.connection() as connection:
                self._commit_batch(connection, batch)
                if len(batch) > 1:
                    failed = [write for write in batch if write.error is not None]
                    # one record made the transaction fail for all: each is now written alone
                    for write in failed:
                        write.error = _UNANSWERED
                    for write in failed:
                        self._commit_batch(connection, [write])
        except (psycopg.Error, errors.StoreError) as exc:
            for write in batch:
                if write.error is _UNANSWERED:
                    write.error = exc
        except _UNSENDABLE as exc:
            # each is written alone, so that only the record that cannot be sent is refused
            for write in batch:
                write.is_alone = True
            if len(batch) == 1:
                batch[0].error = errors.RecordRefused(f"the record cannot be sent: {type(exc).__name__}: {exc}")

    def _commit_batch(self, connection: Connection, batch: list[Write]) -> None:
        """Write a batch in one round trip: one transaction, and after its commit the notification."""
        if len(batch) > 1:
            batch = sorted(batch, key=_sort_key)
        stored: list[Write] = []
        guarded: list[str] = []
        is_durable = False
        for write in batch:
            is_durable = is_durable or write.is_durable
            if write.is_guarded:
                guarded.append(write.task_id)
            if write.task_id:
                stored.append(write)
        pipeline = Pipeline(connection)
        pipeline.send(BEGIN_GUARDED if guarded else BEGIN)
        first = 1
        if not is_durable:
            first = 2
            pipeline.send(_RELAX)
        if guarded:
            first += 1
            pipeline.send(*self._guarding(guarded))
        for write in batch:
            pipeline.send(write.statement, write.values)
        pipeline.send(COMMIT)
        if stored:
            pipeline.send(*self._notification(stored))
        failure, results = pipeline.receive()
        if failure is not None and len(results) < first + len(batch) + 1:
            roll_back(connection)
            for write in batch:
                write.error = failure
            return
        for write, result in zip(batch, results[first:], strict=False):
            write.record_answer(result)
        if failure is not None:
            logger.warning("Waiting clients could not be notified: %s", failure)

    def _guarding(self, task_ids: list[str]) -> tuple[Statement, Values]:
        """Return the statement that keeps others from burying these tasks, and its parameters."""
        if len(task_ids) == 1:
            return self._guard_for_one, ([str(group_of(task_ids[0])).encode()], _TEXT)
        return self._guard, self._guard.values({"groups": groups_of(task_ids)})

    def notify(self, connection: Connection, stored: list[Write]) -> None:
        """Notify the listeners that wait for records that were committed in another way."""
        pipeline = Pipeline(connection)
        pipeline.send(*self._notification(stored))
        failure, _ = pipeline.receive()
        if failure is not None:
            logger.warning("Waiting clients could not be notified: %s", failure)

    def _notification(self, stored: list[Write]) -> tuple[Statement, Values]:
        """Return the statement that notifies the listeners that wait for these records, and its parameters."""
        if len(stored) == 1:
            only = stored[0]
            return self._notify_for_one, ([only.task_id.encode(), b"t" if only.is_ready else b"f"], _NOTIFY_FORMATS)
        row = {
            "task_ids": [write.task_id for write in stored],
            "ready_ids": [write.task_id for write in stored if write.is_ready],
        }
        return self._notify, self._notify.values(row)


def roll_back(connection: Connection) -> None:
    """End a failed transaction; psycopg's own ``rollback`` would drop every prepared statement."""
    if connection.info.transaction_status is not psycopg.pq.TransactionStatus.IDLE:
        pipeline = Pipeline(connection)
        pipeline.send(ROLLBACK)
        pipeline.receive()


def _turn_size(queue: list[Write]) -> int:
    """Return how many of the queued records may be written in one turn."""
    some = queue[: MAX_BATCH - 1]
    return next((place for place, write in enumerate(some) if write.is_alone), len(some))


def _sort_key(write: Write) -> tuple[str, str]:
    return write.sort_key
