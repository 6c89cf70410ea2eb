"""Work in the background of a test."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Background(threading.Thread):
    """Calls ``work`` in a thread that starts at once, and keeps its result or error."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._value: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._value = self._work()
        except BaseException as error:
            self._error = error

    def result(self, timeout: float = 120.0) -> Any:
        """Wait until ``work`` has ended; return its result, or raise its error."""
        self.join(timeout)
        assert not self.is_alive(), f"not done in {timeout:g} s"
        if self._error is not None:
            raise self._error
        return self._value
