"""The conformance suites get what they test as a description: a store, and a worker over it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rootcellar.stores import Store, StoreOptions, open_store

if TYPE_CHECKING:
    import pytest


#: opens a store at a URL
Open = Callable[[str, StoreOptions | None], Store]


@dataclass(frozen=True, kw_only=True)
class StoreUnderTest:
    """A description of a store.

    Attributes:
        name: its name in the ids of the tests.
        new_place: makes a new, empty place for results, yields its URL (without ``rootcellar+``) and removes it.
        open: opens a store there. Other processes call it too, so it must be a function that can be imported.
        shared: whether several processes can use one place at the same time.
        largest: the size of the largest record, in bytes; ``None`` for no limit below 50 MB.
        run_sql: for a store with tables: runs one or several SQL statements there, without the store.
        in_tables_later: whether a stored record is in the tables only after a while.
        text_type: the name of the text type in its SQL, as in ``CAST(x AS text)``.
        odd_names_refused: the names of tables in the suite that its server refuses.
    """

    name: str
    new_place: Callable[[pytest.FixtureRequest], AbstractContextManager[str]]
    open: Open = open_store
    shared: bool = True
    largest: int | None = None
    run_sql: Callable[[str, str], list[tuple[Any, ...]]] | None = None
    in_tables_later: bool = False
    text_type: str = "text"
    odd_names_refused: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Broker:
    """A message broker for the workers under test.

    Attributes:
        name: its name in the ids of the tests.
        new: starts a broker, or makes an empty place on one, yields its URL and removes it.
        in_process: whether only one process can use it. Such a broker needs the pool ``inside``.
    """

    name: str
    new: Callable[[pytest.FixtureRequest], AbstractContextManager[str]]
    in_process: bool = False

    def __str__(self) -> str:
        return self.name


@contextmanager
def _memory(request: pytest.FixtureRequest) -> Iterator[str]:
    yield f"memory://{os.getpid()}"


#: kombu's broker in the memory of one process
MEMORY_BROKER = Broker("memory", _memory, in_process=True)


@dataclass(frozen=True)
class WorkerUnderTest:
    """A worker to run the backend's suite with.

    Attributes:
        store: where the results go.
        pool: the worker's pool; ``inside`` is a worker of two threads in the test process itself.
        broker: where the messages go.
        essentials_only: whether to run only the essentials, not the whole suite.
    """

    store: StoreUnderTest
    pool: Literal["prefork", "threads", "gevent", "eventlet", "solo", "inside"]
    broker: Broker = MEMORY_BROKER
    essentials_only: bool = False

    def __str__(self) -> str:
        return f"{self.store}-{self.pool}-{self.broker}"
