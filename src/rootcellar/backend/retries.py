"""Storing again in an outage.

A task waits until its result is stored: its worker has nothing else to do. A worker's main process stores too (lost
workers, hard time limits), and must not wait: see :mod:`rootcellar.maintenance.deferred_writes`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from rootcellar.errors import RootcellarError
from rootcellar.support.backoff import Backoff
from rootcellar.support.outages import Outage

T = TypeVar("T")

#: tries after the first where a caller must not wait for long
FEW = 3


def retry(work: Callable[[], T], *, what: str, limit: Callable[[], float], backoff: Backoff, outage: Outage) -> T:
    """Do ``work`` until it succeeds, or ``limit`` new tries have failed.

    Args:
        work: what to do; doing it twice must be harmless.
        what: its name for the log.
        limit: returns the most new tries, infinity for no limit; asked when a try failed.
        backoff: how long to wait between them.
        outage: logs that it fails, and that it works again.

    Raises:
        RootcellarError: the last one, if it is not retryable or the limit was reached.
    """
    attempt = 0
    while True:
        try:
            done = work()
            if attempt:
                outage.end()
            return done
        except RootcellarError as exc:
            most = limit()
            if not exc.retryable or attempt >= most:
                raise
            outage.note(what, exc, most=most, is_first=not attempt)
            attempt += 1
            time.sleep(backoff.before(attempt))
