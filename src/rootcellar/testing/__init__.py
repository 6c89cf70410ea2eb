"""Tools for tests: results in memory, the suites that every store must pass, and fixtures for applications.

- :class:`MemoryStore`, ``rootcellar+memory://name``: results in the memory of one process.
- :mod:`rootcellar.testing.fixtures`: pytest fixtures for an application: its results in memory, a worker in a thread.
- :mod:`rootcellar.testing.suites`: the tests of a store, and of Celery's results over it, for a store of your own.

It needs ``pip install 'rootcellar[testing]'``. docs/testing.md shows how to use it.
"""

from __future__ import annotations

from rootcellar.testing.memory import MemoryStore
from rootcellar.testing.under_test import MEMORY_BROKER, Broker, StoreUnderTest, WorkerUnderTest

__all__ = ["MEMORY_BROKER", "Broker", "MemoryStore", "StoreUnderTest", "WorkerUnderTest"]
