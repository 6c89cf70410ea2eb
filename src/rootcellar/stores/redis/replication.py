"""Waiting until replicas have a result, so that a failover does not lose it."""

from __future__ import annotations

import logging
import time

from rootcellar.errors import ConfigurationError, StoreUnavailable
from rootcellar.stores.base import StoreOptions
from rootcellar.stores.redis.connection import Reply, RespConnection, ServerError, pack
from rootcellar.stores.redis.mastership import Mastership
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

#: seconds to wait for the replicas, where ``wait_timeout`` does not say
PATIENCE = 1.0
#: seconds during which nobody waits for replicas that did not answer
RESPITE = 10.0
#: seconds between two questions whether the master is still the master, while replicas are not waited for
ASK_EVERY = 1.0
#: the same after replicas that were waited for did not answer: what other threads learned this moment is new enough
_ASK_AT_ONCE = 0.1


class MasterReplaced(StoreUnavailable):
    """A server is not the master any more, or nobody confirms that it is: what it stored may be discarded. Retryable.

    Attributes:
        address: the server.
    """

    def __init__(self, what: str, *, where: str = "", remedy: str = "", address: str = "") -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.address = address


class Replication:
    """Semi-synchronous replication: results wait for replicas as long as these answer.

    Redis replicates behind the answer: a master that dies may take with it what it had just acknowledged. With WAIT, in
    the same round trip, a store returns when the replicas have the result. When they do not answer in time, results go
    on without them for a while: a replica that is gone must not stop the work. Then the master is asked whether
    replicas are connected at all, before anybody waits for them again.

    A master that was replaced and does not know it has lost its replicas, too, and will discard what it stores. So as
    long as replicas do not confirm a result, the others (Sentinels, or nodes of the Cluster) are asked every second
    whether the master is still the master, and a result counts as stored only if they say so.

    Args:
        options: the store's; the transport options ``wait_replicas`` (0 for not at all) and ``wait_timeout`` (seconds).
        where: the server, for people.
        default: how many replicas are waited for, where ``wait_replicas`` does not say.
        answer_timeout: seconds in which the server must answer; the replicas are waited for at most half as long, or
            their silence would be taken for the server's.
        mastership: knows what the others say; ``None`` where there are no others.
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
        given = options.transport_options
        try:
            self._replicas = int(given.get("wait_replicas", default))
            timeout = float(given.get("wait_timeout", PATIENCE))
        except (TypeError, ValueError):
            raise ConfigurationError(
                "wait_replicas or wait_timeout is not a number",
                where="result_backend_transport_options",
                remedy="give how many replicas, and seconds",
            ) from None
        self._where = where
        self._mastership = mastership
        self._resting_until = 0.0
        #: whether the master was seen with enough replicas since one did not answer
        self._are_connected = False
        self._is_told = False
        self._command = pack(b"WAIT", self._replicas, max(1, int(min(timeout, answer_timeout / 2) * 1000)))

    def run(self, line: RespConnection, packed: bytes) -> Reply:
        """Send a command that changes something; return its answer once replicas have it, or need not have it.

        Raises:
            MasterReplaced: what was changed may be discarded.
            ServerError: the server refused the command.
            OSError: the connection is gone.
        """
        if not self._replicas or not self._is_worthwhile(line):
            reply = line.call(packed)
            if self._mastership is not None:
                self._make_sure(line, ASK_EVERY)
            return reply
        reply, waited = line.call_all([packed, self._command])
        if type(reply) is ServerError:
            raise reply
        if not self._is_there(line, waited):
            self._make_sure(line, _ASK_AT_ONCE)
        return reply

    @property
    def has_others(self) -> bool:
        """Whether there are others who can be asked."""
        return self._mastership is not None

    def is_replaced(self, address: str) -> bool:
        """Ask the others whether the server at ``address`` was replaced; not if that is not sure."""
        if self._mastership is None:
            return False
        return self._mastership.of(address, time.monotonic() - _ASK_AT_ONCE) is False

    def _is_worthwhile(self, line: RespConnection) -> bool:
        """Tell whether replicas should be waited for now: enough of them are connected, and none was missing lately."""
        if not self._replicas or time.monotonic() < self._resting_until:
            return False
        if self._are_connected:
            return True
        count = _connected(line)
        if count is not None and count < self._replicas:
            self._rest(f"{count} of {self._replicas} replicas are connected")
            return False
        self._are_connected = True
        self._is_told = False
        return True

    def _is_there(self, line: RespConnection, answer: Reply) -> bool:
        """Tell by what WAIT answered whether enough replicas have the result; if not, do without for a while.

        Raises:
            MasterReplaced: the answer is an error that says or may mean that the result will be discarded.
        """
        if isinstance(answer, int) and answer >= self._replicas:
            return True
        self._are_connected = False
        if isinstance(answer, ServerError) and not str(answer).startswith("NOPERM"):
            # UNBLOCKED: the master became a replica while we waited
            raise self._replaced(
                line,
                f"WAIT was answered with: {answer}",
                "wait until the failover ends; if it lasts, see the Sentinels, or `redis-cli cluster nodes`",
            )
        self._rest(
            str(answer) if isinstance(answer, ServerError) else f"{answer} of {self._replicas} replicas answered"
        )
        return False

    def _make_sure(self, line: RespConnection, age: float) -> None:
        """Raise unless the others say that ``line`` leads to the master.

        Args:
            age: seconds; the others must not have been asked longer ago.
        """
        if self._mastership is None:
            return
        is_master = self._mastership.of(line.address, time.monotonic() - age)
        if is_master is False:
            raise self._replaced(
                line,
                f"{line.address} was replaced as the master",
                "wait until the failover ends; if it lasts, see the Sentinels, or `redis-cli cluster nodes`",
            )
        if is_master is None and self._replicas:
            raise self._replaced(
                line,
                f"no replica has the result, and no majority of the others confirms that {line.address} is the master",
                "see whether the Sentinels, or the other nodes of the Cluster, run and reach the master",
            )

    def _replaced(self, line: RespConnection, what: str, remedy: str) -> MasterReplaced:
        line.close()
        return MasterReplaced(what, where=self._where, remedy=remedy, address=line.address)

    def _rest(self, reason: str) -> None:
        """Wait for no replica for a while; log it once, as long as that lasts."""
        self._resting_until = time.monotonic() + RESPITE
        logger.log(
            logging.DEBUG if self._is_told else logging.WARNING,
            "Results are stored on the master alone, and a failover may lose the last ones: %s. Looking again every "
            "%g s. [%s]",
            reason,
            RESPITE,
            self._where,
        )
        self._is_told = True


def _connected(line: RespConnection) -> int | None:
    """Return how many replicas follow the server; ``None`` if it does not tell."""
    try:
        role = line.call(pack(b"ROLE"))
    except ServerError:
        # the user may not ask
        return None
    return len(role[2]) if role[0] == b"master" else None
