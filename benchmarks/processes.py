"""Processes to measure in: one like a web process, which Celery did not fork, and one like a prefork worker's child.

The difference is Celery's: its database backend pools connections only in a process that Celery forked.
"""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TypeVar

import billiard

T = TypeVar("T")

#: seconds to wait for the answer of a process
PATIENCE = 300

# each is forked from a process that has imported everything, and has no connection and no other thread
_fresh = multiprocessing.get_context("forkserver")
_fresh.set_forkserver_preload(
    [
        "benchmarks.rows",
        "celery.backends.database",
        "celery.backends.redis",
        "kombu.transport.redis",
        "rootcellar",
        "rootcellar.stores.postgres",
        "rootcellar.stores.sqlite",
        "sqlalchemy.dialects.postgresql.psycopg",
    ]
)
_forked = billiard.get_context("fork")


class Other:
    """One end of the pipe between a process and its child."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    def tell(self, what: Any = None) -> None:
        """Send something to the other process."""
        self._pipe.send((None, what))

    def next_line(self) -> Any:
        """Return the next thing that the other process sends; raise the error that ended it."""
        if not self._pipe.poll(PATIENCE):
            raise TimeoutError(f"a process did not answer within {PATIENCE} s")
        error, what = self._pipe.recv()
        if error is not None:
            raise RuntimeError(f"a process failed:\n{error}")
        return what


class Child(Other):
    """A process that runs ``function``; a context manager that ends it.

    Args:
        context: how it is started.
        function: called with the other end of the pipe and ``args``; its return value is the last message.
    """

    def __init__(self, context: Any, function: Callable[..., Any], *args: Any) -> None:
        ours, theirs = context.Pipe()
        super().__init__(ours)
        self._process = context.Process(target=_run, args=(theirs, function, args), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.join()
        self._pipe.close()


def start(function: Callable[..., Any], *args: Any) -> Child:
    """Start a process like a web process, which calls ``function(parent, *args)``."""
    return Child(_fresh, function, *args)


def call(function: Callable[..., T], *args: Any) -> T:
    """Return what ``function(*args)`` returns in a process like a web process."""
    with start(_call, function, *args) as child:
        answer: T = child.next_line()
        return answer


def in_forked_children(count: int, work: Callable[[Other], T]) -> list[T]:
    """Fork children like Celery's prefork pool, and let them begin together.

    Args:
        count: the number of children.
        work: called with the parent; it sends a message when it is ready, waits until all are ready, and then begins.

    Returns:
        the return values of ``work``.
    """
    with ExitStack() as stack:
        children = [stack.enter_context(Child(_forked, work)) for _ in range(count)]
        for child in children:
            child.next_line()
        for child in children:
            child.tell()
        return [child.next_line() for child in children]


def _call(_: Other, function: Callable[..., T], *args: Any) -> T:
    return function(*args)


def _run(pipe: Any, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    parent = Other(pipe)
    try:
        parent.tell(function(parent, *args))
    except Exception:  # the parent must get every error
        pipe.send((traceback.format_exc(), None))
