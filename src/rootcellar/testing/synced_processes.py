"""Processes that wait for a function to call, so that several can call it at the same moment."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

#: seconds that a job may take
PATIENCE = 60.0

Call = tuple[Callable[..., Any], tuple[Any, ...]]


class ProcessFailed(AssertionError):
    """A function failed in another process; the message has its traceback."""


class SyncedProcesses:
    """A context manager with its own processes, spawned (not forked) when they are first needed."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._members: list[tuple[Any, Connection]] = []

    def run(self, *calls: Call) -> list[Any]:
        """Run each of ``calls``, a function that can be imported and its arguments, in a process, all at once.

        Returns their results, in order; raises ProcessFailed if one failed.
        """
        self._start_processes(len(calls))
        pipes = [pipe for _, pipe in self._members[: len(calls)]]
        for pipe, call in zip(pipes, calls, strict=True):
            pipe.send(call)
        _gather(pipes)  # each has unpickled its call, and imported the modules for it
        for pipe in pipes:
            pipe.send("go")
        return _gather(pipes)

    def run_alike(self, count: int, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Call ``function(*args, number)`` in ``count`` processes at once, ``number`` counting from 0."""
        return self.run(*((function, (*args, number)) for number in range(count)))

    def __enter__(self) -> SyncedProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        for process, pipe in self._members:
            pipe.close()
            process.join(5)
            process.kill()
        self._members.clear()

    def _start_processes(self, count: int) -> None:
        while len(self._members) < count:
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._members.append((process, ours))


def _gather(pipes: Sequence[Connection]) -> list[Any]:
    answers = []
    for pipe in pipes:
        if not pipe.poll(PATIENCE):
            raise ProcessFailed(f"a process did not answer within {PATIENCE:g} s")
        answers.append(pipe.recv())
    for error, _ in answers:
        if error:
            raise ProcessFailed(error)
    return [value for _, value in answers]


def _work(pipe: Connection) -> None:
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        pipe.send((None, None))
        pipe.recv()
        answer: tuple[str | None, Any]
        try:
            answer = (None, function(*args))
        except BaseException:
            answer = (traceback.format_exc(), None)
        pipe.send(answer)
