"""Logs the beginning and the end of an outage of the store, each only once."""

from __future__ import annotations

import logging
import mmap
import struct
import time

from celery.utils.log import get_logger

from rootcellar.errors import RootcellarError
from rootcellar.text.escaping import visible_logs

logger = visible_logs(get_logger(__name__))

#: after this time without a failure, the next failure is a new outage
FORGET_AFTER_SECONDS = 60.0

_FORMAT = struct.Struct("dd")


class Outage:
    """The state of an outage, shared by the processes of a worker, so that only one of them logs it."""

    def __init__(self) -> None:
        # the times of the outage's beginning and of the last failure, in memory that forked processes share
        self._memory = mmap.mmap(-1, _FORMAT.size)

    @property
    def is_on(self) -> bool:
        """Whether the beginning of an outage was logged, but not its end."""
        began, _ = _FORMAT.unpack(self._memory[:])
        return bool(began)

    def log_failure(
        self, action: str, error: RootcellarError, *, max_retries: float = float("inf"), is_first: bool = True
    ) -> None:
        """Log that an operation failed and will be retried, unless the outage is logged already.

        Args:
            action: what the operation does, such as "store SUCCESS of task …".
            error: the reason.
            max_retries: the most retries.
            is_first: whether it is the first failure of this operation; later ones are logged as debug messages.
        """
        began, last = _FORMAT.unpack(self._memory[:])
        now = time.monotonic()
        # last is 0 if nothing failed since the last end; the clock itself may be younger than FORGET_AFTER_SECONDS
        is_new = is_first and (not last or now - last > FORGET_AFTER_SECONDS)
        if is_new or began:
            # if neither holds, an operation that began in the outage failed after its end: the first failure of a later
            # operation must still be logged
            self._memory[:] = _FORMAT.pack(now if is_new else began, now)
        again = "until it works" if max_retries == float("inf") else f"up to {max_retries:g} times"
        logger.log(
            logging.WARNING if is_new else logging.DEBUG, "Could not %s: %s. Trying again %s.", action, error, again
        )

    def log_end(self) -> None:
        """Log that the store works again, unless another process has logged it."""
        began, _ = _FORMAT.unpack(self._memory[:])
        if began:
            self._memory[:] = _FORMAT.pack(0.0, 0.0)
            logger.warning("The result store works again, after %.0f s.", time.monotonic() - began)
