"""Pytest fixtures for an application: its results and messages in memory, eager mode, a worker in a thread.

In ``conftest.py``::

    pytest_plugins = ["rootcellar.testing.fixtures"]

    @pytest.fixture(scope="session")
    def rootcellar_app():
        from shop import app

        return app

The fixtures change the settings of this app and do not restore them: use them for tests only.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from celery import Celery

from rootcellar.backend import ResultBackend
from rootcellar.errors import ConfigurationError
from rootcellar.testing.memory import MemoryStore
from rootcellar.testing.thread_worker import worker_in_thread


@pytest.fixture(scope="session")
def rootcellar_app() -> Celery:
    """The app under test. Override this fixture to test your own; otherwise it is a new app without tasks."""
    return Celery("tests")


@pytest.fixture(scope="session")
def rootcellar_memory(rootcellar_app: Celery) -> Iterator[MemoryStore]:
    """Keep the app's results and messages in the memory of this process; return the store, for the whole run.

    Raises:
        ConfigurationError: the app's backend was already in use and cannot be replaced.
    """
    name = uuid.uuid4().hex
    with pytest.MonkeyPatch.context() as patch:
        # Celery reads these before its own settings
        patch.delenv("CELERY_RESULT_BACKEND", raising=False)
        patch.delenv("CELERY_BROKER_URL", raising=False)
        rootcellar_app.conf.update(
            broker_url=f"memory://{name}",
            # a worker stops when its last poll has ended
            broker_transport_options={"polling_interval": 0.1},
            result_backend=f"rootcellar+memory://{name}",
        )
        store = _memory_of(rootcellar_app)
        yield store
    store.clear()


@pytest.fixture
def rootcellar_store(rootcellar_memory: MemoryStore) -> MemoryStore:
    """The store in memory, empty when the test begins."""
    rootcellar_memory.clear()
    return rootcellar_memory


@pytest.fixture
def rootcellar_eager(rootcellar_app: Celery, rootcellar_memory: MemoryStore) -> Iterator[None]:
    """Run each task at once, where it is called, and store its result."""
    rootcellar_app.conf.update(task_always_eager=True, task_store_eager_result=True)
    with pytest.MonkeyPatch.context() as patch:
        # a task copied the app's setting when it was first used
        for task in rootcellar_app.tasks.values():
            patch.setattr(task, "store_eager_result", True)
        yield
    rootcellar_app.conf.update(task_always_eager=False, task_store_eager_result=False)


@pytest.fixture(scope="session")
def rootcellar_worker(rootcellar_app: Celery, rootcellar_memory: MemoryStore) -> Iterator[None]:
    """Run a worker of two threads in this process, from the first test that uses it to the end of the run."""
    with worker_in_thread(rootcellar_app):
        yield


def _memory_of(app: Celery) -> MemoryStore:
    backend = app.backend
    if isinstance(backend, ResultBackend) and isinstance(backend.store, MemoryStore):
        return backend.store
    raise ConfigurationError(
        "the app's backend was used before the fixture rootcellar_memory replaced it",
        where="rootcellar.testing.fixtures",
        remedy="do not call a task or read app.backend while modules are imported or collected",
    )
