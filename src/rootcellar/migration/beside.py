"""Reads a system in a second process, so that two processors work: for a copy, and for the sums of a comparison."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from multiprocessing.connection import Connection
from threading import Thread, current_thread, main_thread
from types import TracebackType
from typing import Any, TypeVar

from rootcellar.errors import RootcellarError
from rootcellar.migration.checksums import Sums
from rootcellar.migration.collecting import collected_seldom
from rootcellar.migration.endpoint import Spec
from rootcellar.migration.endpoints import open_endpoint
from rootcellar.migration.throttle import Throttle
from rootcellar.migration.transfer import packed, unpacked
from rootcellar.migration.walking import Batch, walk_tasks
from rootcellar.records import TaskRecord

B = TypeVar("B", bound="_Beside")


#: signals that end a command
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Start a process in this block. What a signal does to this one is done after it.

    The new process never gets a Ctrl-C, which a terminal sends to both: this process ends it.
    """
    if current_thread() is not main_thread():
        yield
        return
    came: list[int] = []
    handlers = [(number, signal.signal(number, lambda number, frame: came.append(number))) for number in _SIGNALS]
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in handlers:
            signal.signal(number, handler)
    for each in came:
        signal.raise_signal(each)


class _Beside:
    """A process that sends messages, and ends with the ``with`` block."""

    def __init__(self, target: Callable[..., object], *args: Any) -> None:
        # a process that is forked would have the threads' locks and the connections of this one
        context = multiprocessing.get_context("spawn")
        self._receiving, sending = context.Pipe(duplex=False)
        self._process = context.Process(target=target, args=(sending, *args), name="rootcellar-reads", daemon=True)
        with _undisturbed():
            self._process.start()
        # then reading ends when the process does
        sending.close()

    def __enter__(self: B) -> B:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.is_alive():
            self._process.terminate()
        self._process.join()
        self._receiving.close()

    def _ended(self) -> RootcellarError:
        return RootcellarError(
            "the second process ended before it had read everything",
            remedy="run the command again; the messages above say why it ended",
        )


class SumsBeside(_Beside):
    """The sums of a system.

    Args:
        spec: the system.
        rate: records a second; ``None`` for no limit.
        now: what has expired before this is left out.
        note: is called with the number of records that were read, in a thread.
    """

    def __init__(self, spec: Spec, rate: float | None, now: datetime, note: Callable[[int], object]) -> None:
        super().__init__(_send_sums, spec, rate, now)
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

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.is_alive():
            self._process.terminate()
        # the thread ends when the process has
        self._thread.join()
        super().__exit__(kind, exc, traceback)

    def result(self) -> Sums:
        """Wait for the sums.

        Raises:
            RootcellarError: the error of the process.
        """
        self._thread.join()
        if isinstance(self._answer, Sums):
            return self._answer
        raise self._answer if isinstance(self._answer, RootcellarError) else self._ended()


class TasksBeside(_Beside):
    """The task records of a system, in batches.

    Args:
        spec: the system.
        cursor: where to begin; ``None`` for the beginning.
        rate: records a second; ``None`` for no limit.
    """

    def __init__(self, spec: Spec, cursor: str | None, rate: float | None) -> None:
        super().__init__(_send_tasks, spec, cursor, rate)

    def batches(self, wait: Callable[[float], bool]) -> Iterator[Batch[TaskRecord]]:
        """Yield the batches.

        Args:
            wait: waits for seconds, and returns true if nobody wants more.

        Raises:
            RootcellarError: the error of the process.
        """
        while True:
            while not self._receiving.poll(0.1):
                if wait(0.0):
                    return
            try:
                message = self._receiving.recv()
            except (EOFError, OSError):
                raise self._ended() from None
            if isinstance(message, RootcellarError):
                raise message
            cursor, columns = message
            yield Batch(unpacked(columns), cursor)
            if cursor is None:
                return


def _send_sums(sending: Connection, spec: Spec, rate: float | None, now: datetime) -> None:
    """Send how many records were read, batch by batch, and then the sums or an error."""
    sums = Sums()

    def send(batch: Batch[TaskRecord]) -> None:
        sums.add(batch.rows, now)
        sending.send(len(batch.rows))

    error = _for_each_batch(spec, None, rate, send)
    _send(sending, sums if error is None else error)


def _send_tasks(sending: Connection, spec: Spec, cursor: str | None, rate: float | None) -> None:
    """Send for each batch the cursor after it and its records, or an error at the end."""

    def send(batch: Batch[TaskRecord]) -> None:
        sending.send((batch.cursor, packed(batch.rows)))

    error = _for_each_batch(spec, cursor, rate, send)
    if error is not None:
        _send(sending, error)


def _for_each_batch(
    spec: Spec, cursor: str | None, rate: float | None, send: Callable[[Batch[TaskRecord]], object]
) -> RootcellarError | None:
    """Read a system, and return an error if there was one."""
    try:
        endpoint = open_endpoint(spec)
        with closing(endpoint), collected_seldom():
            for batch in walk_tasks(endpoint.to_read.stream, cursor, throttle=Throttle(rate)):
                send(batch)
    except RootcellarError as exc:
        return exc
    except BrokenPipeError:
        # the process that started this one has ended
        raise SystemExit(0) from None
    return None


def _send(sending: Connection, message: object) -> None:
    try:
        sending.send(message)
    except BrokenPipeError:
        # nobody waits for it
        return
