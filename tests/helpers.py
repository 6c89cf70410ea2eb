"""Helpers of the tests of several folders, besides :mod:`rootcellar.testing.helpers`."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
import time
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rootcellar.records import Payload, TaskRecord
from rootcellar.testing.helpers import new_id, wait_until

__all__ = ["HEAVY", "PATIENCE", "fork_in_c", "new_id", "now", "record", "wait_until"]

#: whether the long forms of tests run: many more rounds, chords and tasks
HEAVY = bool(os.environ.get("ROOTCELLAR_TEST_HEAVY"))
#: seconds that a test waits for something that should happen at once
PATIENCE = 20.0
ENDS = ("SUCCESS", "FAILURE", "REVOKED")


def now() -> datetime:
    return datetime.now(timezone.utc)


def record(task_id: str = "", value: Any = 42, state: str = "SUCCESS", **given: Any) -> TaskRecord:
    """Return a record, by default with a new id, of a task that ended just now if its state is final."""
    done_at = now() if state in ENDS else None
    values = {"result": Payload(json.dumps(value).encode()), "done_at": done_at, **given}
    return TaskRecord(task_id=task_id or new_id(), state=state, **values)


def fork_in_c() -> int:
    """Fork like a program in C, without Python's hooks; return the child's process id, or 0 in the child.

    A thread that waits for the interpreter at the moment of the fork leaves its condition variable in a state in which
    the child can hang. So this waits until no other thread does.
    """
    wait_until(_others_sleep, "a moment at which all other threads sleep")
    return int(ctypes.PyDLL(None).fork())


def _others_sleep() -> bool:
    before = _other_threads()
    # a thread that waits for the interpreter gets it now
    time.sleep(0.02)
    return before == _other_threads() and all(state == "S" for state, *_ in before)


def _other_threads() -> list[tuple[str, int, int]]:
    """Return for each other thread whether it sleeps (``S``), and its position in the program."""
    frames = sys._current_frames()
    found = []
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if frame is not None and thread is not threading.current_thread():
            with suppress(FileNotFoundError):  # it has just ended
                state = Path(f"/proc/self/task/{thread.native_id}/stat").read_text().rpartition(") ")[2][:1]
                found.append((state, id(frame), frame.f_lasti))
    return found
