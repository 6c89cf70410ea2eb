"""Reads the arguments of a wait: results of Celery and ids of tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any
from uuid import UUID

from celery import Celery, Signature, current_app
from celery.result import EagerResult, ResultBase

from rootcellar.errors import ConfigurationError, NotAResult
from rootcellar.waiting.parents import Readable, leaves_of


def as_result(task: Any, app: Celery | None) -> Any:
    """Return a result of Celery unchanged, and for an id the ``AsyncResult`` of its task.

    Raises:
        NotAResult: it is neither.
    """
    if isinstance(task, ResultBase):
        return task
    if isinstance(task, str | UUID):
        return (app or current_app._get_current_object()).AsyncResult(str(task))
    # the message has only the type, because the arguments of a signature may be secret
    problem = f"an object of type {type(task).__name__} is neither a result nor the id of a task"
    if isinstance(task, Signature):
        raise NotAResult(problem, remedy="send it first: pass the object that its delay() or apply_async() returns")
    raise NotAResult(problem, remedy="pass the object that delay() or apply_async() returned, or the id of a task")


def members_of(results: Any, app: Celery | None) -> Iterator[Any]:
    """Yield the results of tasks in the argument: results, groups and ids, or one of them.

    Raises:
        NotAResult: one of them is neither.
    """
    if isinstance(results, str | UUID | ResultBase | Signature) or not isinstance(results, Iterable):
        results = [results]
    yield from leaves_of(as_result(one, app) for one in results)


def needs_no_wait(one: Any) -> bool:
    """Return True if a result needs no wait, as in Celery's ``get``."""
    return isinstance(one, EagerResult) or bool(getattr(one, "ignored", False))


def value_without_wait(one: Any, *, propagate: bool) -> Any:
    """Return the value of a result that needs no wait, or raise its exception."""
    # without Celery's warning for tasks that wait, because this does not wait
    return one.get(propagate=propagate, disable_sync_subtasks=False)


def backend_of(async_result: Any) -> Readable:
    """Return the backend of a result.

    Raises:
        ConfigurationError: it is not rootcellar's.
    """
    backend = async_result.backend
    if not isinstance(backend, Readable):
        raise ConfigurationError(
            f"the result backend of {async_result!r} is {type(backend).__name__}",
            where=f"result_backend of app {async_result.app.main!r}",
            remedy="set result_backend to a rootcellar+ URL; with the id of a task of another app, give app=",
        )
    return backend
