"""Keeps Python's garbage collector from looking at each record several times."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

#: after how many new objects the young ones are looked at, and after how many such times the older ones
_SELDOM = (100_000, 20, 100)


@contextmanager
def collected_seldom() -> Iterator[None]:
    """Let the garbage collector run seldom in this block.

    Batches of records are many objects, and no cycles. Without this, a third of the time of reading is the collector's.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*_SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
