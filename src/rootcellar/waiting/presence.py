"""Finds out whether a task has a record, with one read at a time for all callers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

from rootcellar.errors import RootcellarError
from rootcellar.records import TaskRecord
from rootcellar.support.executor import DeadlineExecutor
from rootcellar.support.forking import PerProcess

#: the most records in one read
BATCH = 250


class Presence:
    """Finds out whether tasks have a record.

    Args:
        fetch: reads the records that exist, such as :meth:`Store.get_many`.
        executor: the executor that calls it.
    """

    def __init__(self, fetch: Callable[[Iterable[str]], Mapping[str, TaskRecord]], executor: DeadlineExecutor) -> None:
        self._fetch = fetch
        self._executor = executor
        self._questions = PerProcess(_Questions)

    def check(self, task_id: str) -> Future[bool]:
        """Return a future with the answer whether a record exists, or with a RootcellarError.

        The record is read after this call began. Cancel the future if it is no longer needed.
        """
        answer: Future[bool] = Future()
        questions = self._questions.get()
        if questions.add(task_id, answer):
            self._executor.submit(lambda: self._answer(questions))
        return answer

    def _answer(self, questions: _Questions) -> None:
        """Answer the open questions in batches until there are none."""
        while asked := questions.take():
            wanted = [(task_id, answer) for task_id, answer in asked if not answer.cancelled()]
            try:
                found = self._fetch({task_id for task_id, _ in wanted}) if wanted else {}
            except RootcellarError as exc:
                for _, answer in wanted:
                    with suppress(InvalidStateError):
                        answer.set_exception(exc)
            else:
                for task_id, answer in wanted:
                    # the future may have been cancelled meanwhile
                    with suppress(InvalidStateError):
                        answer.set_result(task_id in found)


class _Questions:
    """The open questions of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[tuple[str, Future[bool]]] = []
        self._is_answered = False

    def add(self, task_id: str, answer: Future[bool]) -> bool:
        """Add a question. Return True if no thread is answering questions."""
        with self._lock:
            self._open.append((task_id, answer))
            is_answered, self._is_answered = self._is_answered, True
            return not is_answered

    def take(self) -> list[tuple[str, Future[bool]]]:
        """Return the oldest questions. If there are none, record that no thread is answering."""
        with self._lock:
            taken, self._open = self._open[:BATCH], self._open[BATCH:]
            self._is_answered = bool(taken)
            return taken
