"""Moving results on, for as long as a process lives: from a store that has them first to the durable one behind it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from celery.utils.log import get_logger

from rootcellar.errors import RootcellarError
from rootcellar.stores.journal import DRAIN_BATCH, WritesBehind
from rootcellar.text.escaping import visible_logs

logger = visible_logs(get_logger(__name__))

#: seconds between two batches, where the last one was not full, and while there is nothing to move
PAUSE, IDLE_PAUSE = 0.1, 0.5
#: seconds between two tries in an outage, at first and at most
FIRST_RETRY, LONGEST_RETRY = 0.1, 5.0


def keep_draining(
    store: WritesBehind, end: threading.Event, note: Callable[[int], object] = lambda moved: None
) -> None:
    """Move what waits until ``end`` is set. An outage of either store is waited out.

    Args:
        store: what is drained.
        end: set from elsewhere.
        note: called with the number of each batch.
    """
    retry = FIRST_RETRY
    is_out = False
    while not end.is_set():
        try:
            moved = store.drain()
        except RootcellarError as exc:
            if not is_out:
                logger.warning("Results wait to be moved, and nothing of them is lost: %s", exc)
            is_out = True
            pause, retry = retry, min(2 * retry, LONGEST_RETRY)
        except Exception:  # a thread that dies would leave everything where it is
            logger.exception("Moving results failed")
            pause = LONGEST_RETRY
        else:
            if is_out:
                logger.warning("Results are moved again.")
            is_out, retry = False, FIRST_RETRY
            note(moved)
            pause = IDLE_PAUSE if not moved else PAUSE if moved < DRAIN_BATCH else 0.0
        end.wait(pause)


class DrainThread(threading.Thread):
    """Drains a store for as long as the process lives. Several processes may do so at a time.

    Args:
        store: what is drained.
    """

    def __init__(self, store: WritesBehind) -> None:
        super().__init__(name="rootcellar-drain", daemon=True)
        self._store = store
        self._end = threading.Event()

    def run(self) -> None:
        keep_draining(self._store, self._end)

    def stop(self) -> None:
        """End after the batch that is being moved."""
        self._end.set()
