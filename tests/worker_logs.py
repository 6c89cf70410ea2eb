"""Adds the log of the worker, with the stacks of its threads, to the report of a failed test."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from rootcellar.testing.harness import Harness
from rootcellar.testing.workers import Worker, WorkerError

#: the lines of the log in a report
LINES = 400
#: seconds for the worker to write its stacks; a worker that hangs outside Python writes none
SECONDS = 2.0
#: Celery writes this line after the stack of each thread
_END_OF_A_STACK = "^=====+$"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    """Add the worker's log to the report of a failed test."""
    report = yield
    harness = getattr(item, "funcargs", {}).get("harness")
    if report.failed and isinstance(harness, Harness) and harness.worker is not None:
        report.sections.append(("log of the worker", _log_with_stacks(harness.worker)))
    return report


def _log_with_stacks(worker: Worker) -> str:
    with suppress(WorkerError, ProcessLookupError):
        mark = worker.mark()
        os.kill(worker.pid, signal.SIGUSR1)
        worker.wait_for_log(_END_OF_A_STACK, SECONDS, since=mark)
    return worker.tail(LINES)
