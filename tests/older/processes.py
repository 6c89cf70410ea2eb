"""Processes of the tests: writers that store results, and movers that are killed.

``python -m tests.older.processes write URL`` stores results until it is ended, and prints the id of each stored one,
and on standard error that it has begun.

``python -m tests.older.processes move URL`` forks a child for each line that it reads, and prints ``ended`` after each.
A child enables the older table, moves everything there and back, and prints a line before each step.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta

from rootcellar.stores import StoreOptions, open_store
from rootcellar.stores.older import Older
from rootcellar.testing.helpers import able
from tests.older.tables import WINDOW, finished, now

#: rows of a step
LIMIT = 20


def write(url: str) -> None:
    """Store new results, and old ones again, as a task does that is delivered twice."""
    # a store that waits longer than this for a lock fails, and so does the test
    options = StoreOptions(connect_args={"options": "-c lock_timeout=5s"})
    store = open_store(url, options)
    number = 0
    while True:
        number += 1
        one = finished(timedelta(0), worker="writer", retries=number % 2)
        assert store.put(one).written
        print(one.task_id, flush=True)
        if number == 1:
            print("writes", file=sys.stderr, flush=True)
        # leave the processor to the others
        time.sleep(0.01)


def move(url: str) -> None:
    """Move everything there and back, once for each line of standard input."""
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                _move_once(url)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        print("ended", flush=True)


def _move_once(url: str) -> None:
    store = open_store(url)
    older = able(store, Older)
    print(os.getpid(), flush=True)
    older.finish_interrupted()
    older.enable()
    if not older.status().is_disabling:
        after = None
        while True:
            print("move", flush=True)
            moved = older.move(now(), WINDOW, LIMIT, after)
            if moved.last is None:
                break
            after = moved.last
    while True:
        print("back", flush=True)
        if older.disable_step(LIMIT).last is None:
            return


if __name__ == "__main__":
    {"write": write, "move": move}[sys.argv[1]](sys.argv[2])
