"""Waiting until replicas have a result, so that a failover does not lose it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from rootcellar.errors import ConfigurationError, StoreUnavailable
from rootcellar.stores.base import StoreOptions
from rootcellar.stores.redis.wire import Line, Reply, ServerError, pack

logger = logging.getLogger(__name__)

#: seconds to wait for the replicas, where ``wait_timeout`` does not say
PATIENCE = 1.0
#: seconds during which nobody waits for replicas that did not answer
RESPITE = 10.0


class Replication:
    """Semi-synchronous replication: results wait for replicas as long as these answer.

    Redis replicates behind the answer: a master that dies may take with it what it had just acknowledged. With WAIT, in
    the same round trip, a store returns when the replicas have the result. When they do not answer in time, results go
    on without them for a while: a replica that is gone must not stop the work. Then the master is asked whether
    replicas are connected at all, before anybody waits for them again. Each time it is made sure that the master still
    is the master: one that was replaced and does not know it yet has lost its replicas, too.

    Args:
        options: the store's; the transport options ``wait_replicas`` (0 for not at all) and ``wait_timeout`` (seconds).
        where: the server, for people.
        default: how many replicas are waited for, where ``wait_replicas`` does not say.
        answer_timeout: seconds in which the server must answer; the replicas are waited for at most half as long, or
            their silence would be taken for the server's.
        is_master: asks whether a connection leads to what is the master now.
    """

    def __init__(
        self,
        options: StoreOptions,
        where: str,
        *,
        default: int,
        answer_timeout: float,
        is_master: Callable[[Line], bool] = lambda line: True,
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
        self._is_master = is_master
        self._resting_until = 0.0
        #: whether the master was seen with enough replicas since one did not answer
        self._are_connected = False
        self._is_told = False
        self.command = pack(b"WAIT", self._replicas, max(1, int(min(timeout, answer_timeout / 2) * 1000)))

    def make_sure(self, line: Line) -> None:
        """Raise StoreUnavailable if ``line`` leads to what is no longer the master: what it stored will be gone."""
        if not self._is_master(line):
            line.close()
            raise StoreUnavailable(
                f"{line.address} was replaced as the master", where=self._where, remedy="nothing: it is tried again"
            )

    @property
    def is_waited_for(self) -> bool:
        """Whether a store should wait now."""
        return self._replicas > 0 and time.monotonic() >= self._resting_until

    def is_worthwhile(self, line: Line) -> bool:
        """Tell whether enough replicas are connected to wait for; if not, do without for a while.

        Raises:
            StoreUnavailable: none is, because ``line`` leads to what is no longer the master.
        """
        if self._are_connected:
            return True
        count = _connected(line)
        if count is not None and count < self._replicas:
            self._rest(f"{count} of {self._replicas} replicas are connected")
            self.make_sure(line)
            return False
        self._are_connected = True
        self._is_told = False
        return True

    def is_there(self, answer: Reply) -> bool:
        """Tell by what WAIT answered whether enough replicas have the result; if not, do without for a while."""
        if isinstance(answer, int) and answer >= self._replicas:
            return True
        self._are_connected = False
        self._rest(
            str(answer) if isinstance(answer, ServerError) else f"{answer} of {self._replicas} replicas answered"
        )
        return False

    def _rest(self, reason: str) -> None:
        """Wait for nobody for a while; say so, once for as long as it stays so."""
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


def _connected(line: Line) -> int | None:
    """Return how many replicas follow the server; ``None`` if it does not tell."""
    try:
        role = line.call(pack(b"ROLE"))
    except ServerError:
        # the user may not ask
        return None
    return len(role[2]) if role[0] == b"master" else None
