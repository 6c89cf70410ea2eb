"""Reads the demo's results: from a store, or as messages with rpc."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

from celery.result import AsyncResult

from rootcellar import rpc
from rootcellar.backend import ResultBackend
from rootcellar.records import TaskRecord
from rootcellar.stores.base import Queryable, TaskQuery


class Results(Protocol):
    """The operations of a result backend that the demo needs."""

    @property
    def has_chords(self) -> bool:
        """Whether chords work."""

    @property
    def has_retries(self) -> bool:
        """Whether a result has the number of retries."""

    @property
    def where(self) -> str:
        """The place of the results, for people; empty if results are not kept."""

    @property
    def is_queryable(self) -> bool:
        """Whether results can be searched, not only read by id."""

    def check(self) -> None:
        """Check that results can be stored and read.

        Raises:
            StoreError: they cannot; the error says why.
        """

    def finished(self, task_ids: Collection[str]) -> set[str]:
        """Return those of these tasks that have ended."""

    def result(self, task_id: str) -> AsyncResult:
        """Return the result of one task."""

    def records(self, query: TaskQuery, task_ids: Collection[str]) -> Sequence[TaskRecord]:
        """Return the stored results of these tasks, the most recent first."""

    def forget(self, task_ids: Collection[str]) -> None:
        """Delete the stored results of these tasks, and their groups."""


class StoredResults:
    """Results in a store of rootcellar."""

    has_chords = True
    has_retries = True

    def __init__(self, backend: ResultBackend) -> None:
        self._backend = backend
        self._store = backend.store

    @property
    def where(self) -> str:
        return self._store.where

    @property
    def is_queryable(self) -> bool:
        return self._store.ability(Queryable) is not None

    def check(self) -> None:
        self._store.check()

    def finished(self, task_ids: Collection[str]) -> set[str]:
        return {task_id for task_id, _ in self._backend.get_many(task_ids, max_iterations=1)}

    def result(self, task_id: str) -> AsyncResult:
        """Return a new result, which reads the store."""
        return AsyncResult(task_id, app=self._backend.app)

    def records(self, query: TaskQuery, task_ids: Collection[str]) -> Sequence[TaskRecord]:
        """Search the store; if it cannot be searched, read each task."""
        if (queryable := self._store.ability(Queryable)) is not None:
            return queryable.query(query)
        newest = sorted(self._store.get_many(task_ids).values(), key=lambda record: str(record.done_at), reverse=True)
        return [record for record in newest if not query.states or record.state in query.states][: query.limit]

    def forget(self, task_ids: Collection[str]) -> None:
        groups = {record.group_id for record in self._store.get_many(task_ids).values()}
        self._store.delete(task_ids)
        for group_id in groups - {None}:
            self._store.delete_group(str(group_id))


class MessagedResults:
    """Results that are messages; each comes once."""

    has_chords = False
    #: Celery before 5.7 does not send them
    has_retries = False
    where = ""
    is_queryable = False

    def __init__(self, app: Any) -> None:
        self._app = app
        self._received: dict[str, AsyncResult] = {}

    def check(self) -> None:
        rpc.check_round_trip(self._app)

    def finished(self, task_ids: Collection[str]) -> set[str]:
        return {task_id for task_id in task_ids if self.result(task_id).ready()}

    def result(self, task_id: str) -> AsyncResult:
        """Return the same object each time, because its message comes only once."""
        return self._received.setdefault(task_id, AsyncResult(task_id, app=self._app))

    def records(self, query: TaskQuery, task_ids: Collection[str]) -> Sequence[TaskRecord]:
        return []

    def forget(self, task_ids: Collection[str]) -> None:
        """Do nothing: results are not kept."""


def results_of(app: Any) -> Results:
    """Return the way to read the app's results."""
    backend = app.backend
    return StoredResults(backend) if isinstance(backend, ResultBackend) else MessagedResults(app)
