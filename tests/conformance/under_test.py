"""How a store, and a worker over it, are described to the conformance suites."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from rootcellar.stores import Store, StoreOptions, open_store


@dataclass(frozen=True, kw_only=True)
class StoreUnderTest:
    """A store and what can be done with it.

    Attributes:
        name: what its tests are called.
        new_place: makes a new, empty place for results, gives its URL (without ``rootcellar+``) and removes it.
        open: opens a store there. Other processes call it too, so it must be a function that can be imported.
        shared: whether several processes can use one place at the same time.
        largest: the most bytes that a record may have; ``None`` for no limit worth a test.
        run_sql: for a store with tables: runs a statement, or a script of several, there, without the store.
        in_tables_later: whether what is stored is in the tables only after a while.
        text_type: what its SQL calls a text in CAST.
        odd_names_refused: which of the suite's odd names of tables its server takes no table by.
    """

    name: str
    new_place: Callable[[pytest.FixtureRequest], AbstractContextManager[str]]
    open: Callable[[str, StoreOptions | None], Store] = open_store
    shared: bool = True
    largest: int | None = None
    run_sql: Callable[[str, str], list[tuple[Any, ...]]] | None = None
    in_tables_later: bool = False
    text_type: str = "text"
    odd_names_refused: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Combination:
    """A worker to run the backend's suite with.

    Attributes:
        store: where the results go.
        pool: the worker's pool; ``inside`` is a worker of two threads in the test process itself.
        broker: ``redis``, ``rabbit`` or ``memory``, which needs ``inside``.
        essentials_only: whether to run only the essentials, not the whole suite.
    """

    store: StoreUnderTest
    pool: Literal["prefork", "threads", "gevent", "eventlet", "solo", "inside"]
    broker: Literal["redis", "rabbit", "memory"]
    essentials_only: bool = False

    def __str__(self) -> str:
        return f"{self.store}-{self.pool}-{self.broker}"
