"""Computes the sums of one system in a second process, so that both systems are read at the same time."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from datetime import datetime
from multiprocessing.connection import Connection
from threading import Thread
from types import TracebackType
from typing import Any

from rootcellar.errors import RootcellarError
from rootcellar.migration.checksums import Sums
from rootcellar.migration.endpoint import Spec
from rootcellar.migration.endpoints import open_endpoint
from rootcellar.migration.throttle import Throttle
from rootcellar.migration.walking import walk_tasks


class SumsBeside:
    """The sums of a system, computed by a process that ends with the ``with`` block.

    Args:
        spec: the system.
        rate: records a second; ``None`` for no limit.
        now: what has expired before this is left out.
        note: is called with the number of records that were read, in a thread.
    """

    def __init__(self, spec: Spec, rate: float | None, now: datetime, note: Callable[[int], object]) -> None:
        # a process that is forked would have the threads' locks and the connections of this one
        context = multiprocessing.get_context("spawn")
        self._receiving, sending = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_compute, args=(sending, spec, rate, now), name="rootcellar-verify", daemon=True
        )
        self._process.start()
        # then reading ends when the process does
        sending.close()
        self._note = note
        self._answer: Any = None
        self._thread = Thread(target=self._read, name="rootcellar-verify-beside", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            while isinstance(message := self._receiving.recv(), int):
                self._note(message)
            self._answer = message
        except (EOFError, OSError):
            return

    def __enter__(self) -> SumsBeside:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.is_alive():
            self._process.terminate()
        self._process.join()
        self._thread.join()
        self._receiving.close()

    def result(self) -> Sums:
        """Wait for the sums.

        Raises:
            RootcellarError: the error of the process.
        """
        self._thread.join()
        if isinstance(self._answer, Sums):
            return self._answer
        if isinstance(self._answer, RootcellarError):
            raise self._answer
        raise RootcellarError(
            "the second process of the comparison ended without a result",
            remedy="run the command again; the messages above say why it ended",
        )


def _compute(sending: Connection, spec: Spec, rate: float | None, now: datetime) -> None:
    """Send how many records were read, batch by batch, and then the sums or an error."""
    # the process that started this one ends it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sums = Sums()
    try:
        endpoint = open_endpoint(spec)
        try:
            for batch in walk_tasks(endpoint.to_read.stream, throttle=Throttle(rate)):
                sums.add(batch.rows, now)
                sending.send(len(batch.rows))
        finally:
            endpoint.close()
        sending.send(sums)
    except RootcellarError as exc:
        sending.send(exc)
    except BrokenPipeError:
        # the process that started this one has ended
        return
