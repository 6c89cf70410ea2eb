"""Helpers of the fault tests: a broker, a store, workers and a client of the same app, and an audit of the store."""

from __future__ import annotations

import json
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from rootcellar.stores import open_store
from rootcellar.testing.background import Background
from tests.apps.faults import Faults, make_app
from tests.workers import Worker

AUDIT = """
CREATE TABLE audit (number bigserial, task_id text, was text, became text);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO audit (task_id, was, became)
    VALUES (NEW.task_id, CASE WHEN TG_OP = 'UPDATE' THEN OLD.status END, NEW.status);
    RETURN NEW;
END $$;
CREATE TRIGGER audit AFTER INSERT OR UPDATE ON celery_taskmeta FOR EACH ROW EXECUTE FUNCTION audit();
"""


class Cluster:
    """A broker and a store, and workers and a client for them.

    Args:
        folder: the folder for planned faults.
        broker: the broker's URL.
        store: the store's own URL.
        settings: Celery's settings for the workers and the client.
    """

    def __init__(self, folder: Path, broker: str, store: str, **settings: Any) -> None:
        self.broker = broker
        self.store = store
        self.backend = f"rootcellar+{store}"
        self.settings = settings
        self.env: dict[str, str] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="faults-", dir=folder))
        self.folder.chmod(0o777)
        self.faults = Faults(self.folder)
        self.client = make_app(broker, self.backend, settings)

    def worker(self, concurrency: int = 2, args: Sequence[str] = (), **settings: Any) -> Worker:
        """Return a prefork worker, not started, with these settings added to the cluster's."""
        env = {
            "TEST_BROKER": self.broker,
            "TEST_BACKEND": self.backend,
            "TEST_FAULTS": str(self.folder),
            "TEST_SETTINGS": json.dumps({**self.settings, **settings}),
            **self.env,
        }
        return Worker("tests.apps.faults", env=env, concurrency=concurrency, args=args)

    @contextmanager
    def workers(self, *workers: Worker) -> Iterator[None]:
        """Run workers, all started at the same time."""
        end = threading.Event()
        started = threading.Semaphore(0)

        def hold(worker: Worker) -> None:
            try:
                worker.start()
            finally:
                started.release()
            end.wait()  # a worker dies with the thread that started it

        with ExitStack() as stack:
            holders = [Background(partial(hold, stack.push(worker))) for worker in workers]
            try:
                for _ in workers:
                    started.acquire()
                for worker, holder in zip(workers, holders, strict=True):
                    if not worker.running:
                        holder.result()
                yield
            finally:
                for worker in workers:
                    if worker.running:
                        worker.kill()
                end.set()

    def task(self, name: str) -> Any:
        """Return a task of the client's app."""
        return self.client.tasks[name]

    def create_tables(self) -> None:
        """Create the tables before a worker does."""
        store = open_store(self.store)
        store.check()
        store.close()


class Audit:
    """Every change of a state in a PostgreSQL store, recorded by a trigger in the server."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.execute(AUDIT)

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run SQL in the store's database; return the rows, if any."""
        with psycopg.connect(self._url, autocommit=True, connect_timeout=10) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def successes(self) -> Counter[str]:
        """Return how often a SUCCESS was written, by task."""
        found = self.execute("SELECT task_id, count(*) FROM audit WHERE became = 'SUCCESS' GROUP BY task_id")
        return Counter(dict(found))

    def overwritten(self) -> list[tuple[Any, ...]]:
        """Return every change of a SUCCESS; there must be none."""
        return self.execute("SELECT task_id, was, became FROM audit WHERE was = 'SUCCESS'")
