"""Storing results: prepared statements in one pipeline, which notifies waiting clients in the same round trip.

Threads and greenlets that store at the same moment share a commit: the first one leads, and the records that
the others bring while it is busy go together in the next turn. A turn is one pipeline: a transaction of all the
records, which waits for the disk unless all of them may be lost with the machine, and after its commit a notification
to those that wait for them.
Records are sorted by chord and task, so that two processes never lock the same rows in opposite order.

Any of them may be interrupted at any moment (a soft time limit, Ctrl-C, a greenlet's timeout). A call that leaves
tidies up by steps that can be repeated; one that was not answered tries again. Each call holds a lock of its own while
it lasts, by ``with``, so the others see that a leader is gone, also where it could not tidy up.
"""

from __future__ import annotations

import logging
import threading

from psycopg.pq.abc import PGresult

from rootcellar import errors
from rootcellar.stores.pool import ConnectionPool
from rootcellar.stores.postgres.driver import Connection, psycopg
from rootcellar.stores.postgres.pipeline import BEGIN, COMMIT, ROLLBACK, Pipeline, Statement, Values, row_of
from rootcellar.support.forking import PerProcess
from rootcellar.support.gates import Gate
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

#: the error of a record of which nothing is known yet
_UNANSWERED = errors.StoreUnavailable("not written yet")

_RELAX = Statement("relax", "SET LOCAL synchronous_commit = off")
_BELL_FORMATS = [1, 0]

#: the types of a record's parameters
_PARAMETERS = frozenset({bytes, type(None)})
#: what the driver, or our own code, raises of a record that it cannot send
_UNSENDABLE = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)

#: the most records in one turn
MOST = 200


class Write:
    """One record on its way to the disk.

    Args:
        task_id: the task; empty where only a part of a chord is counted.
        statement: what stores it.
        values: the statement's parameters.
        order: what decides in which order rows are locked.
        is_durable: whether the call may return only when the disk has it.
        is_ready: whether the task is over, which is what most waiters want to hear.

    Raises:
        RecordRefused: a parameter, or what decides the order, has another type, with which it would fail those of other
            threads that are written with it.
    """

    __slots__ = (
        "answer",
        "count",
        "error",
        "gate",
        "is_alone",
        "is_durable",
        "is_ready",
        "order",
        "presence",
        "statement",
        "task_id",
        "values",
    )

    def __init__(
        self,
        task_id: str,
        statement: Statement,
        values: Values,
        order: tuple[str, str],
        *,
        is_durable: bool,
        is_ready: bool,
    ) -> None:
        is_text = type(task_id) is str and type(order[0]) is str and type(order[1]) is str
        if not is_text or not _PARAMETERS.issuperset(map(type, values[0])):
            raise errors.RecordRefused(
                f"a field of task {task_id!a} has another type than the store takes",
                remedy="see what stores it: ids are text",
            )
        self.task_id = task_id
        self.order = order
        self.statement = statement
        self.values = values
        self.is_durable = is_durable
        self.is_ready = is_ready
        self.count = 0
        self.answer: tuple[bytes | None, ...] = ()
        self.error: Exception | None = _UNANSWERED
        #: whether it is written without others, because a batch that it was in failed
        self.is_alone = False
        #: where it waits for a leader, or to become one
        self.gate = Gate()
        #: held while somebody waits for this to be written
        self.presence = threading.Lock()

    @property
    def is_wanted(self) -> bool:
        """Whether the call that brought it still waits for it."""
        return self.presence.locked()

    def settle(self, result: PGresult) -> None:
        """Take the answer, once it is committed."""
        self.error = None
        self.count = result.command_tuples or 0
        self.answer = row_of(result) if result.ntuples else ()


class _Turns:
    """The record that leads a turn, those that are written with it, and those that come next, in one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: the record that leads the turn, the others in it, and those that come next
        self.leader: Write | None = None
        self._followers: list[Write] = []
        self.queue: list[Write] = []

    def join(self, write: Write) -> None:
        """Let ``write`` lead where nobody does; otherwise it comes next."""
        with self._lock:
            if self.leader is None:
                self.leader = write
            else:
                write.gate.close()
                self.queue.append(write)

    def take_followers(self, leader: Write) -> list[Write]:
        """Return those that go in the turn of ``leader``, which begins."""
        with self._lock:
            if not self.queue:
                self._followers = []
                return self._followers
            next_ones = [write for write in self.queue if write.is_wanted and write is not leader]
            count = 0 if leader.is_alone else _together(next_ones)
            self._followers = next_ones[:count]
            self.queue = next_ones[count:]
            return self._followers

    def leave(self, write: Write) -> None:
        """Take part no more, and keep nobody waiting, whether one was waiting, leading or to lead next."""
        with self._lock:
            if write in self.queue and self.leader is not write:
                self.queue.remove(write)
        self.hand_over(write)

    def hand_over(self, leader: Write) -> None:
        """Let those of this turn go, and the next one lead. Interrupted anywhere, it is to be done again."""
        with self._lock:
            if self.leader is leader:
                for follower in self._followers:
                    follower.gate.open()
                self._followers = []
                self.leader = next((write for write in self.queue if write.is_wanted), None) if self.queue else None
            if self.leader is not None:
                if self.leader in self.queue:
                    self.queue.remove(self.leader)
                self.leader.gate.open()

    def see_to_absent_leader(self) -> None:
        """Hand the lead over where a leader left without doing so."""
        leader = self.leader
        if leader is not None and not leader.is_wanted:
            self.hand_over(leader)


class Writer:
    """Writes the records of any number of threads in as few commits as it can.

    Args:
        pool: lends the connections.
        ring: the statement that wakes waiting listeners, with the parameters ``task_ids`` and ``ready_ids``.
        ring_for_one: the same for one task, with the parameters ``task_id`` and ``is_ready``, in this order.
    """

    def __init__(self, pool: ConnectionPool[Connection], ring: Statement, ring_for_one: Statement) -> None:
        self._pool = pool
        self._ring = ring
        self._ring_for_one = ring_for_one
        self._turns = PerProcess(_Turns)

    def write(self, write: Write) -> None:
        """Store; return once it is safe, with the statement's ``count`` and ``answer`` in ``write``.

        Raises:
            psycopg.Error: the server refused this record, or the connection was lost.
            StoreError: no connection could be had.
        """
        turns = self._turns.get()
        with write.presence:
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
        """Lead a turn, or wait until somebody has written this record too."""
        turns.join(write)
        while turns.leader is not write:
            # opened by the leader, when it has written this record or hands the lead over
            if write.gate.wait():
                break
            turns.see_to_absent_leader()
        if turns.leader is write:
            self._write_together([write, *turns.take_followers(write)])
            turns.hand_over(write)

    def _write_together(self, batch: list[Write]) -> None:
        try:
            with self._pool.connection() as connection:
                self._commit_batch(connection, batch)
                if len(batch) > 1:
                    failed = [write for write in batch if write.error is not None]
                    # one of them spoilt the transaction for all: each alone gets its own answer
                    for write in failed:
                        write.error = _UNANSWERED
                    for write in failed:
                        self._commit_batch(connection, [write])
        except (psycopg.Error, errors.StoreError) as exc:
            for write in batch:
                if write.error is _UNANSWERED:
                    write.error = exc
        except _UNSENDABLE as exc:
            # of several, each tries again alone, so that only the one which cannot be sent is refused
            for write in batch:
                write.is_alone = True
            if len(batch) == 1:
                batch[0].error = errors.RecordRefused(f"the record cannot be sent: {type(exc).__name__}: {exc}")

    def _commit_batch(self, connection: Connection, batch: list[Write]) -> None:
        """Write a batch in one round trip: one transaction, and after its commit the bell."""
        if len(batch) > 1:
            batch = sorted(batch, key=_order)
        told: list[Write] = []
        is_durable = False
        for write in batch:
            is_durable = is_durable or write.is_durable
            if write.task_id:
                told.append(write)
        pipeline = Pipeline(connection)
        pipeline.send(BEGIN)
        first = 1
        if not is_durable:
            first = 2
            pipeline.send(_RELAX)
        for write in batch:
            pipeline.send(write.statement, write.values)
        pipeline.send(COMMIT)
        if told:
            pipeline.send(*self._bell(told))
        failure, results = pipeline.settle()
        if failure is not None and len(results) < first + len(batch) + 1:
            _roll_back(connection)
            for write in batch:
                write.error = failure
            return
        for write, result in zip(batch, results[first:], strict=False):
            write.settle(result)
        if failure is not None:
            logger.warning("Waiters could not be woken: %s", failure)

    def _bell(self, told: list[Write]) -> tuple[Statement, Values]:
        """Return the statement that wakes the listeners that wait for these records, and its parameters."""
        if len(told) == 1:
            return self._ring_for_one, ([told[0].task_id.encode(), b"t" if told[0].is_ready else b"f"], _BELL_FORMATS)
        row = {
            "task_ids": [write.task_id for write in told],
            "ready_ids": [write.task_id for write in told if write.is_ready],
        }
        return self._ring, self._ring.values(row)


def _roll_back(connection: Connection) -> None:
    """End a failed transaction; psycopg's own ``rollback`` would drop every prepared statement."""
    if connection.info.transaction_status is not psycopg.pq.TransactionStatus.IDLE:
        pipeline = Pipeline(connection)
        pipeline.send(ROLLBACK)
        pipeline.settle()


def _together(queue: list[Write]) -> int:
    """Return how many of the waiting records may be written in one turn."""
    some = queue[: MOST - 1]
    return next((place for place, write in enumerate(some) if write.is_alone), len(some))


def _order(write: Write) -> tuple[str, str]:
    return write.order
