"""Reads the watcher's notifications, and passes them to an event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVar

from rootcellar.errors import RootcellarError
from rootcellar.records import TaskRecord
from rootcellar.stores.watching import Notification

T = TypeVar("T")


def records_of(notification: Notification) -> list[TaskRecord]:
    """Return the records of a notification, or raise the error that it contains."""
    if isinstance(notification, RootcellarError):
        raise notification
    return [record for record in notification if isinstance(record, TaskRecord)]


def ids_of(notification: Notification) -> list[str]:
    """Return the ids of tasks of a notification, or raise the error that it contains."""
    if isinstance(notification, RootcellarError):
        raise notification
    return [task_id for task_id in notification if isinstance(task_id, str)]


def on_loop(loop: asyncio.AbstractEventLoop, receive: Callable[[T], object]) -> Callable[[T], None]:
    """Return a function that calls ``receive`` on the loop, for a watcher that runs in another thread."""

    def deliver(notification: T) -> None:
        # the loop may be closed at any moment; then nothing waits on it
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(receive, notification)

    return deliver
