"""One leader among all processes that use a store.

A leader has a lease, which it renews. If it dies, the lease ends, and another process takes over::

                hold(): the lease is free, or its own                hold(), after a third of the lease: renewed
    candidate ────────────────────────────────────────> leader ──────────────────────────────────────────────> leader
        ^                                                 |
        └─────────────────────────────────────────────────┘
          release(), or hold(): another process has the lease

The lease is stored as a chord without parts: :meth:`~rootcellar.stores.base.Store.claim_chord` gives a chord to one
claimant for a time, by the server's clock. This works on every store, through every connection pooler, and with the
rights of a worker. A chord without parts belongs to no broker, so no sweep finishes it.

If a process is suspended for longer than the lease, it continues afterwards while there is a new leader. So doing a run
twice must be harmless: the lease saves work, but it is not a lock.
"""

from __future__ import annotations

import socket
import time
import uuid

from rootcellar.maintenance.service import check_seconds
from rootcellar.stores.base import Store
from rootcellar.support.forking import PerProcess

#: the prefix of the group id of a lease
PREFIX = "rootcellar-lease-"
#: seconds after which a dead leader is replaced
LEASE = 60.0


class _Candidate:
    """One process that may lead."""

    def __init__(self) -> None:
        self.name = f"{socket.gethostname()}/{uuid.uuid4().hex}"
        #: the monotonic time until which this process certainly has the lease; 0 if it is not the leader
        self.until = 0.0


class StoreLeader:
    """Decides which process leads one service, with a lease in a store.

    Args:
        store: the store of the lease.
        name: the service.
        lease: seconds after which another process takes over from a leader that has died.

    Raises:
        ConfigurationError: ``lease`` is not a number of seconds.
    """

    def __init__(self, store: Store, name: str, lease: float = LEASE) -> None:
        check_seconds(lease, "lease", least=0.1)
        self.lease = lease
        self._store = store
        self._group_id = PREFIX + name.replace(" ", "-")
        self._candidate = PerProcess(_Candidate)

    def hold(self) -> bool:
        """Become or stay the leader; return whether this process is the leader.

        The store is asked only after a third of the lease has passed since it was renewed.

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
            RootcellarError: the store cannot be asked; the lease will end by itself.
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
            # another process has the lease now
            return False
        # perhaps there is no lease yet: create it; this changes nothing if there is one
        self._store.size_chord(self._group_id, 0)
        return self._store.claim_chord(self._group_id, candidate.name, lease=lease)
