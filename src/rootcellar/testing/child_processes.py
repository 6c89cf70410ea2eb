"""Processes that tests start: they end with the tests, also if the tests are killed."""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import time
from collections.abc import Callable, Sequence

import psutil

POLL_SECONDS = 0.02


def find_program(name: str) -> str | None:
    """Return the path of a program, or None if it is not installed."""
    # an ordinary user's PATH often lacks the sbin folders
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


def call_at_exit(work: Callable[[], object]) -> None:
    """Call `work` when this process ends, but not when a child ends that was forked from it."""
    pid = os.getpid()
    atexit.register(lambda: work() if os.getpid() == pid else None)


def die_with_parent(command: Sequence[str], death_signal: str = "KILL", user: str | None = None) -> list[str]:
    """Wrap `command` so that it gets `death_signal` when its parent dies, and runs as `user` if one is given.

    Without setpriv (not Linux), the command is returned unchanged: then only a normal exit of the tests ends it.
    """
    # setpriv and not preexec_fn: Python code between fork and exec is unsafe if the parent has threads
    setpriv = find_program("setpriv")
    if setpriv is None:
        return list(command)
    identity = [f"--reuid={user}", f"--regid={pwd.getpwnam(user).pw_gid}", "--init-groups"] if user else []
    return [setpriv, f"--pdeathsig={death_signal}", *identity, "--", *command]


def wait_gone(processes: Sequence[psutil.Process], timeout: float) -> bool:
    """Wait until all `processes` have ended; return whether they did within `timeout` seconds."""

    def ended(process: psutil.Process) -> bool:
        try:
            if not process.is_running():
                return True
            # A zombie has ended too (in a container, process 1 may never collect it), unless it still has threads.
            return process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1
        except psutil.NoSuchProcess:
            return True

    return poll(lambda: all(ended(process) for process in processes), timeout)


def poll(condition: Callable[[], bool], timeout: float) -> bool:
    """Call `condition` until it is true; return whether it was within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
