"""Threads of the package: work is done even if the system allows only one more thread."""

from __future__ import annotations

import _thread
import subprocess
import sys
import threading

import pytest

from rootcellar.support.threads import start_thread

FOR_ALL_ELSE = 20.0


def test_work_is_done_once_if_only_one_thread_can_start(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    works: list[int] = []
    is_done = threading.Event()
    start_new_thread = _thread.start_new_thread

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def count(function: object, args: object) -> int:
        begun.append(1)
        return start_new_thread(function, args)  # type: ignore[arg-type]

    def work() -> None:
        works.append(_thread.get_ident())
        is_done.set()

    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr(_thread, "start_new_thread", count)
    start_thread(work, "name")
    assert is_done.wait(FOR_ALL_ELSE)
    assert len(begun) == len(works) == 1
    assert works != [_thread.get_ident()]


NO_ROOM = """
import _thread, os
from rootcellar.support.threads import start_thread

tries = []

def refuse(function, args):
    tries.append(1)
    if len(tries) > 100:
        print("no end to the tries", flush=True)
        os._exit(1)
    raise RuntimeError("can't start new thread")

_thread.start_new_thread = refuse
try:
    start_thread(lambda: None, "name")
except RuntimeError as exc:
    said = str(exc)
# now a thread can start
print(said, len(tries))
"""


def test_caller_gets_an_error_if_no_thread_can_start() -> None:
    script = [sys.executable, "-c", NO_ROOM]
    assert subprocess.run(script, capture_output=True, text=True).stdout == "can't start new thread 1\n"
