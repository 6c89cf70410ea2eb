"""An outage of the store in the log: its beginning once, and its end."""

from __future__ import annotations

import logging
import mmap
import struct
import time

from celery.utils.log import get_logger

from rootcellar.errors import RootcellarError
from rootcellar.text.escaping import visible_logs

logger = visible_logs(get_logger(__name__))

#: seconds; where nobody has failed for so long, the next failure is another outage
FORGOTTEN = 60.0

_FORMAT = struct.Struct("dd")


class Outage:
    """What the processes of a worker know of an outage: they share it, so that only one of them logs it."""

    def __init__(self) -> None:
        # when the outage began, and when somebody last failed; memory that forked processes share
        self._memory = mmap.mmap(-1, _FORMAT.size)

    @property
    def is_on(self) -> bool:
        """Whether an outage was logged whose end was not."""
        began, _ = _FORMAT.unpack(self._memory[:])
        return bool(began)

    def note(self, what: str, error: RootcellarError, *, most: float = float("inf"), is_first: bool = True) -> None:
        """Log that something could not be done and is tried again, unless that is known.

        Args:
            what: what could not be done.
            error: why not.
            most: how often it is tried again at most.
            is_first: whether it is the first failure of this piece of work; a later one is no news.
        """
        began, last = _FORMAT.unpack(self._memory[:])
        now = time.monotonic()
        # last is 0 where nobody has failed since the last end; the clock itself may be younger than FORGOTTEN
        is_new = is_first and (not last or now - last > FORGOTTEN)
        if is_new or began:
            # otherwise work that began in an outage fails after its end; the next failure of new work must be logged
            self._memory[:] = _FORMAT.pack(now if is_new else began, now)
        again = "until it works" if most == float("inf") else f"up to {most:g} times"
        logger.log(
            logging.WARNING if is_new else logging.DEBUG, "Could not %s: %s. Trying again %s.", what, error, again
        )

    def end(self) -> None:
        """Log that the store works again, unless somebody else has done so."""
        began, _ = _FORMAT.unpack(self._memory[:])
        if began:
            self._memory[:] = _FORMAT.pack(0.0, 0.0)
            logger.warning("The result store works again, after %.0f s.", time.monotonic() - began)
