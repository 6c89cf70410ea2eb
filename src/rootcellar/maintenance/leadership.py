"""One leader among all processes that use a store.

A leader holds a lease, which it renews. If it dies, the lease runs out, and another process takes over. The lease is
kept as a chord without parts: :meth:`~rootcellar.stores.base.Store.claim_chord` gives a chord to one claimant for a
time, by the server's clock, on every store, through every connection pooler and with the rights that a worker has. A
chord without parts belongs to no broker, so no sweep finishes it.

A process that is suspended for longer than the lease goes on when it is woken, beside the new leader. So a run must be
harmless when it is done twice; the lease saves work, and is no lock.
"""

from __future__ import annotations

import socket
import time
import uuid

from rootcellar.maintenance.service import check_seconds
from rootcellar.stores.base import Store
from rootcellar.support.forking import PerProcess

#: the begin of the group id under which a lease is kept
PREFIX = "rootcellar-lease-"
#: seconds after which a dead leader is replaced
LEASE = 60.0


class _Candidate:
    """One process that may lead."""

    def __init__(self) -> None:
        self.name = f"{socket.gethostname()}/{uuid.uuid4().hex}"
        #: the monotonic time until which the lease is surely held
        self.until = 0.0


class StoreLeader:
    """The leader of one service, by a lease in a store.

    Args:
        store: where the lease is.
        name: the service.
        lease: seconds after which another process takes over from a leader that has died.

    Raises:
        ConfigurationError: ``lease`` is no time.
    """

    def __init__(self, store: Store, name: str, lease: float = LEASE) -> None:
        check_seconds(lease, "lease", least=0.1)
        self.lease = lease
        self._store = store
        self._group_id = PREFIX + name.replace(" ", "-")
        self._candidate = PerProcess(_Candidate)

    def hold(self) -> bool:
        """Become or stay the leader; return whether this process is it.

        The store is asked only where a third of the lease has passed since it was last renewed.

        Raises:
            RootcellarError: the store cannot be asked.
        """
        candidate = self._candidate.get()
        now = time.monotonic()
        if candidate.until - now > self.lease * 2 / 3:
            return True
        if not self._claim(candidate, self.lease):
            candidate.until = 0.0
            return False
        candidate.until = now + self.lease
        return True

    def release(self) -> None:
        """Let another process take over at once, if this one is the leader.

        Raises:
            RootcellarError: the store cannot be asked; the lease runs out by itself.
        """
        candidate = self._candidate.peek()
        if candidate is None or not candidate.until:
            return
        candidate.until = 0.0
        self._store.claim_chord(self._group_id, candidate.name, lease=0.0)

    def _claim(self, candidate: _Candidate, lease: float) -> bool:
        if self._store.claim_chord(self._group_id, candidate.name, lease=lease):
            return True
        if candidate.until:
            # it is another process's now
            return False
        # nobody may have led before; saying so again changes nothing
        self._store.size_chord(self._group_id, 0)
        return self._store.claim_chord(self._group_id, candidate.name, lease=lease)
