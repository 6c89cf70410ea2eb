"""Retries an operation in an outage.

A task waits until its result is stored, because its worker has nothing else to do. A worker's main process also stores
results (of lost workers, and of tasks that reached a hard time limit), but must not wait: see
:mod:`rootcellar.maintenance.deferred_writes`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from rootcellar.errors import RootcellarError
from rootcellar.support.backoff import Backoff
from rootcellar.support.outages import Outage

T = TypeVar("T")

#: the number of retries for a caller that must not wait for long
FEW_RETRIES = 3


def retry(work: Callable[[], T], *, action: str, limit: Callable[[], float], backoff: Backoff, outage: Outage) -> T:
    """Call ``work`` until it succeeds, or ``limit`` retries have failed; return its result.

    Args:
        work: the operation; doing it twice must be harmless.
        action: what it does, for the log.
        limit: returns the most retries, infinity for no limit. It is called after each failure.
        backoff: the pauses between two tries.
        outage: logs that it fails, and that it works again.

    Raises:
        RootcellarError: the error of the last try, if it is not retryable or the limit was reached.
    """
    attempt = 0
    while True:
        try:
            done = work()
            if attempt:
                outage.log_end()
            return done
        except RootcellarError as exc:
            max_retries = limit()
            if not exc.retryable or attempt >= max_retries:
                raise
            outage.log_failure(action, exc, max_retries=max_retries, is_first=not attempt)
            attempt += 1
            time.sleep(backoff.before(attempt))
