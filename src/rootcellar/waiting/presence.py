"""Finding out whether anything is stored of a task, for many callers at once: one read at a time for all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

from rootcellar.errors import RootcellarError
from rootcellar.records import TaskRecord
from rootcellar.support.executor import DeadlineExecutor
from rootcellar.support.forking import PerProcess

#: the most records that one read asks for
BATCH = 250


class Presence:
    """Tells whether tasks have a record.

    Args:
        fetch: reads the records that exist, such as :meth:`Store.get_many`.
        aside: the threads in which it is called.
    """

    def __init__(self, fetch: Callable[[Iterable[str]], Mapping[str, TaskRecord]], aside: DeadlineExecutor) -> None:
        self._fetch = fetch
        self._aside = aside
        self._questions = PerProcess(_Questions)

    def is_stored(self, task_id: str) -> Future[bool]:
        """Return the answer to come: whether a record exists, read after this call began; or a RootcellarError.

        Cancel it when it is not needed any more.
        """
        answer: Future[bool] = Future()
        questions = self._questions.get()
        if questions.add(task_id, answer):
            self._aside.submit(lambda: self._answer(questions))
        return answer

    def _answer(self, questions: _Questions) -> None:
        """Answer what was asked, in batches, until there is nothing more."""
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
                    # it may have been cancelled meanwhile
                    with suppress(InvalidStateError):
                        answer.set_result(task_id in found)


class _Questions:
    """The questions of one process that are not answered yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[tuple[str, Future[bool]]] = []
        self._is_answered = False

    def add(self, task_id: str, answer: Future[bool]) -> bool:
        """Note a question; return whether no thread answers questions at present."""
        with self._lock:
            self._open.append((task_id, answer))
            is_answered, self._is_answered = self._is_answered, True
            return not is_answered

    def take(self) -> list[tuple[str, Future[bool]]]:
        """Return the oldest questions; where there are none, note that no thread answers any more."""
        with self._lock:
            taken, self._open = self._open[:BATCH], self._open[BATCH:]
            self._is_answered = bool(taken)
            return taken
