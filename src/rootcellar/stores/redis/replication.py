"""Waits until replicas have a result, so that a failover does not lose it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from rootcellar.errors import StoreUnavailable
from rootcellar.stores.base import StoreOptions
from rootcellar.stores.redis.connection import Reply, RespConnection, ServerError, pack
from rootcellar.stores.redis.mastership import Mastership
from rootcellar.stores.redis.options import read_options
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

#: seconds to wait for the replicas, unless ``wait_timeout`` is set
WAIT_SECONDS = 1.0
#: seconds without waiting, after replicas have not answered
RESPITE_SECONDS = 10.0
#: seconds between two checks whether the server is still the master, while there is no waiting for replicas
ASK_SECONDS = 1.0
#: the same after replicas did not answer: a check that another thread has just made is new enough
_ASK_NOW_SECONDS = 0.1


class MasterReplaced(StoreUnavailable):
    """A server is not the master any more, or this is not known: it may discard what it stored. Retryable.

    Attributes:
        address: the server.
    """

    def __init__(self, what: str, *, where: str = "", remedy: str = "", address: str = "") -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.address = address


class Replication:
    """Semi-synchronous replication: storing waits for replicas as long as they answer.

    Redis replicates after its reply: if the master dies, the last acknowledged results may be lost. With WAIT, in the
    same round trip, storing returns when the replicas have the result. If they do not answer in time, results are
    stored without waiting for a while, because a lost replica must not stop the work. Before WAIT is sent again, the
    master is asked whether enough replicas are connected::

        waiting (WAIT with each result) ──────────────────────> resting for RESPITE_SECONDS (no WAIT)
           ^           too few replicas answered in time           |                        ^
           |                                                       v                        |
           └───────────────────────────────── ask the master (ROLE) ────────────────────────┘
                   enough replicas are connected                       too few are connected

    A master that was replaced without noticing it also has no replicas, and will discard what it stores. So while
    replicas do not confirm results, the other servers (Sentinels, or nodes of the Cluster) are asked every second
    whether it is still the master. A result counts as stored only if they confirm that.

    Args:
        options: the options of the store; used are the transport options ``wait_replicas`` (0 for no waiting) and
            ``wait_timeout`` (seconds).
        where: the server, for messages.
        default: the number of replicas, unless ``wait_replicas`` is set.
        answer_timeout: seconds in which the server must answer. WAIT lasts at most half as long, so that replicas that
            do not answer are not taken for a server that does not answer.
        mastership: asks the other servers; ``None`` if there are none.
    """

    def __init__(
        self,
        options: StoreOptions,
        where: str,
        *,
        default: int,
        answer_timeout: float,
        mastership: Mastership | None = None,
    ) -> None:
        own = read_options(options)
        self._replicas = default if own.wait_replicas is None else own.wait_replicas
        timeout = WAIT_SECONDS if own.wait_timeout is None else own.wait_timeout
        self._where = where
        self._mastership = mastership
        self._resting_until = 0.0
        #: whether the master had enough replicas since the last time that one did not answer
        self._are_connected = False
        self._was_logged = False
        self._command = pack(b"WAIT", self._replicas, max(1, int(min(timeout, answer_timeout / 2) * 1000)))

    def run(self, connection: RespConnection, packed: bytes) -> Reply:
        """Send a command that changes something; return its reply when enough replicas have the change.

        Raises:
            MasterReplaced: the change may be discarded.
            ServerError: the server refused the command.
            OSError: the connection was lost.
        """
        if not self._replicas or not self._check_replicas(connection):
            reply = connection.call(packed)
            if self._mastership is not None:
                self._require_master(connection, ASK_SECONDS)
            return reply
        reply, waited = connection.call_all([packed, self._command])
        if type(reply) is ServerError:
            raise reply
        if not self._record_reply(connection, waited):
            self._require_master(connection, _ASK_NOW_SECONDS)
        return reply

    def run_all(self, connection: RespConnection, commands: Sequence[bytes]) -> list[Reply]:
        """Send commands together; return their replies when enough replicas have all changes.

        An error of a single command is among the replies. Raises what :meth:`run` raises.
        """
        if not self._check_replicas(connection):
            replies = connection.call_all(commands)
            if self._mastership is not None:
                self._require_master(connection, ASK_SECONDS)
            return replies
        *replies, waited = connection.call_all([*commands, self._command])
        if not self._record_reply(connection, waited):
            self._require_master(connection, _ASK_NOW_SECONDS)
        return replies

    @property
    def has_others(self) -> bool:
        """Whether there are other servers that can be asked."""
        return self._mastership is not None

    def is_replaced(self, address: str) -> bool:
        """Ask the other servers whether the one at ``address`` was replaced; return ``False`` if it is not known."""
        if self._mastership is None:
            return False
        return self._mastership.of(address, time.monotonic() - _ASK_NOW_SECONDS) is False

    def _check_replicas(self, connection: RespConnection) -> bool:
        """Return whether to wait for replicas now. After a pause, ask the server once whether enough are connected."""
        if not self._replicas or time.monotonic() < self._resting_until:
            return False
        if self._are_connected:
            return True
        count = _connected(connection)
        if count is not None and count < self._replicas:
            self._pause(f"{count} of {self._replicas} replicas are connected")
            return False
        self._are_connected = True
        self._was_logged = False
        return True

    def _record_reply(self, connection: RespConnection, answer: Reply) -> bool:
        """Return, by the reply to WAIT, whether enough replicas have the result. If not, stop waiting for a while.

        Raises:
            MasterReplaced: the reply is an error after which the result may be discarded.
        """
        if isinstance(answer, int) and answer >= self._replicas:
            return True
        self._are_connected = False
        if isinstance(answer, ServerError) and not str(answer).startswith("NOPERM"):
            # UNBLOCKED: the master became a replica during WAIT
            raise self._replaced(
                connection,
                f"WAIT was answered with: {answer}",
                "wait until the failover ends; if it lasts, see the Sentinels, or `redis-cli cluster nodes`",
            )
        self._pause(
            str(answer) if isinstance(answer, ServerError) else f"{answer} of {self._replicas} replicas answered"
        )
        return False

    def _require_master(self, connection: RespConnection, age: float) -> None:
        """Raise an error if the other servers do not confirm that ``connection`` leads to the master.

        Args:
            age: the most seconds since the others were asked.
        """
        if self._mastership is None:
            return
        is_master = self._mastership.of(connection.address, time.monotonic() - age)
        if is_master is False:
            raise self._replaced(
                connection,
                f"{connection.address} was replaced as the master",
                "wait until the failover ends; if it lasts, see the Sentinels, or `redis-cli cluster nodes`",
            )
        if is_master is None and self._replicas:
            raise self._replaced(
                connection,
                "no replica has the result, and no majority of the others confirms that "
                f"{connection.address} is the master",
                "see whether the Sentinels, or the other nodes of the Cluster, run and reach the master",
            )

    def _replaced(self, connection: RespConnection, problem: str, remedy: str) -> MasterReplaced:
        connection.close()
        return MasterReplaced(problem, where=self._where, remedy=remedy, address=connection.address)

    def _pause(self, reason: str) -> None:
        """Stop waiting for replicas for RESPITE_SECONDS; log a warning only the first time."""
        self._resting_until = time.monotonic() + RESPITE_SECONDS
        logger.log(
            logging.DEBUG if self._was_logged else logging.WARNING,
            "Results are stored on the master alone, and a failover may lose the last ones: %s. Trying again every "
            "%g s. [%s]",
            reason,
            RESPITE_SECONDS,
            self._where,
        )
        self._was_logged = True


def _connected(connection: RespConnection) -> int | None:
    """Return how many replicas are connected; ``None`` if the user may not ask."""
    try:
        role = connection.call(pack(b"ROLE"))
    except ServerError:
        return None
    return len(role[2]) if role[0] == b"master" else None
