"""One run of the demo: start a worker, send it the shop's work, and check every result."""

from __future__ import annotations

import os
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rootcellar.errors import ConfigurationError, DemoFailed, DriverBroken, DriverMissing, RootcellarError
from rootcellar.onboarding.demo import FROM_SETTINGS
from rootcellar.onboarding.demo.app import BACKEND, BROKER, QUEUE, app, configure
from rootcellar.onboarding.demo.results import results_of
from rootcellar.onboarding.demo.tasks import PROGRESS
from rootcellar.onboarding.demo.workers import DemoWorker, ProcessWorker, ThreadWorker
from rootcellar.onboarding.demo.workload import Expected, Workload
from rootcellar.urls import redact

_START_SECONDS = 30.0
#: seconds without a finished task after which the demo gives up
_STALL_SECONDS = 60.0
#: seconds between two reads of finished tasks
_LOOK_SECONDS = 0.1
#: seconds between two rounds of tasks
_LONGEST_PAUSE = 0.5
_IN_PROCESS_BROKER = "memory://"


class Watcher(Protocol):
    """Gets the progress of the run."""

    def say(self, text: str) -> None:
        """Show a step."""

    def count(self, finished: int, total: int) -> None:
        """Show the number of finished tasks."""

    def report(self, page: int, pages: int) -> None:
        """Show the progress of the long report."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a run.

    Attributes:
        tasks: the number of tasks.
        states: the number of tasks by their last state; ``PENDING`` are tasks without a result.
        seconds: the time from the first sent task to the last finished one.
        mismatches: unexpected results, one line each.
    """

    tasks: int
    states: Mapping[str, int]
    seconds: float
    mismatches: tuple[str, ...]


class Demo:
    """One run. ``results`` reads the results.

    Args:
        backend: URL of the result backend, beginning with ``rootcellar+``, or ``FROM_SETTINGS``.
        broker: URL of the broker, or ``FROM_SETTINGS``; ``None`` for one in this process, with the worker in a thread.
        size: about how many tasks to run.
        log: the file for the worker's log.
        pauses: the sum of the pauses between rounds of tasks in seconds, for people who watch.
        watcher: gets the progress.

    Raises:
        ConfigurationError: a URL cannot be used.
        DriverMissing: a Python package is not installed.
    """

    def __init__(self, *, backend: str, broker: str | None, size: int, log: Path, pauses: float, watcher: Watcher):
        if broker is not None and broker != FROM_SETTINGS and "://" not in broker:
            raise _no_broker("it is not a URL", "--broker")
        queue = f"rootcellar-demo-{secrets.token_hex(4)}"
        os.environ.update({BACKEND: backend, BROKER: broker or _IN_PROCESS_BROKER, QUEUE: queue})
        configure(os.environ)
        self._where_broker = redact(app.conf.broker_url)
        self._is_remote = not app.conf.broker_url.startswith("memory:")
        self._log = log
        self._watcher = watcher
        self.results = results_of(app)
        self._workload = Workload(size, with_chords=self.results.has_chords)
        self._pause = min(_LONGEST_PAUSE, pauses / self._workload.rounds)
        self._finished: set[str] = set()
        self._last_news = 0.0

    @property
    def task_ids(self) -> set[str]:
        """The ids of the tasks that must have a result."""
        return self._workload.stored

    def run(self) -> Outcome:
        """Run the demo.

        Raises:
            StoreError: the result store cannot be used.
            DriverMissing: the broker's Python package is not installed.
            ConfigurationError: no transport has the name in the broker's URL.
            DemoFailed: the broker cannot be reached, or the worker did not run all tasks.
        """
        self.results.check()
        self._check_broker()
        if not self.results.has_chords:
            self._watcher.say("rpc has no chords and no history: orders are not split up, and no visits are counted.")
        self._watcher.say(f"Starting a worker ({'2 processes' if self._is_remote else '4 threads'}) ...")
        worker: DemoWorker = ProcessWorker(self._log) if self._is_remote else ThreadWorker(self._log)
        try:
            with worker:
                self._revoke_vouchers(worker)
                seconds = self._work(worker)
        finally:
            self._delete_queues()
        return self._check_results(seconds)

    def _check_broker(self) -> None:
        try:
            with app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
        except Exception as exc:  # each transport raises its own errors
            raise _broker_error(exc, self._where_broker) from exc

    def _revoke_vouchers(self, worker: DemoWorker) -> None:
        """Revoke some tasks before they are sent; the answer shows that the worker is ready."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            worker.check()
            arguments = {"task_id": self._workload.to_revoke}
            if app.control.broadcast("revoke", arguments=arguments, reply=True, timeout=1, limit=1):
                return
        raise DemoFailed(
            f"the worker did not answer within {_START_SECONDS:g} s", where=str(self._log), remedy="see its log"
        )

    def _work(self, worker: DemoWorker) -> float:
        """Send all tasks and wait until they have finished; return the time in seconds."""
        visits = "visits, " if self.results.has_chords else ""
        self._watcher.say(f"Sending {self._workload.size} tasks: orders, payments, imports, reports, {visits}vouchers.")
        start = self._last_news = last_look = time.monotonic()
        for _ in self._workload.send():
            time.sleep(self._pause)
            if time.monotonic() - last_look >= _LOOK_SECONDS:
                self._look()
                last_look = time.monotonic()
        while unfinished := self._look():
            worker.check()
            self._give_up_if_stalled(unfinished)
            time.sleep(_LOOK_SECONDS)
        return time.monotonic() - start

    def _look(self) -> int:
        """Read which tasks have finished since the last read; return the number of unfinished tasks."""
        waiting = self._workload.stored - self._finished
        news = self.results.finished(waiting)
        if news:
            self._last_news = time.monotonic()
            self._finished |= news
        self._watcher.count(len(self._finished), self._workload.results)
        self._look_at_report()
        return len(waiting) - len(news)

    def _look_at_report(self) -> None:
        if self._workload.report_id in self._finished:
            return
        result = self.results.result(self._workload.report_id)
        state, progress = result.state, result.result
        # the task may have ended between the two reads
        if state == PROGRESS and isinstance(progress, dict) and "total" in progress:
            self._watcher.report(progress["current"], progress["total"])

    def _give_up_if_stalled(self, unfinished: int) -> None:
        if time.monotonic() - self._last_news > _STALL_SECONDS:
            raise DemoFailed(
                f"{unfinished} tasks did not finish: nothing came for {_STALL_SECONDS:g} s",
                where=str(self._log),
                remedy="see the worker's log",
            )

    def _check_results(self, seconds: float) -> Outcome:
        expected = self._workload.expected.values()
        self._watcher.say(f"Checking {len(expected)} results ...")
        return Outcome(
            tasks=len(expected),
            states=Counter(task.state for task in expected),
            seconds=seconds,
            mismatches=tuple(found for task in expected if (found := self._mismatch(task))),
        )

    def _mismatch(self, task: Expected) -> str | None:
        return task.mismatch(self.results.result(task.task_id), has_retries=self.results.has_retries)

    def _delete_queues(self) -> None:
        """Delete the demo's queues in the broker, if the broker still runs."""
        with suppress(Exception), app.connection_for_write() as connection:
            for queue in app.amqp.queues.values():
                bound = queue.bind(connection.default_channel)
                # on Redis, only a client that declared a queue knows its bindings, which must be deleted too
                bound.declare()
                bound.delete()
                bound.exchange.delete()


def _broker_error(exc: Exception, where: str) -> RootcellarError:
    """Return rootcellar's error for a broker's error."""
    scheme = where.partition("://")[0]
    what = redact(f"{type(exc).__name__}: {exc}")
    # kombu's module for Redis fails if redis-py is missing
    if isinstance(exc, ImportError) and not isinstance(exc, ModuleNotFoundError):
        return DriverBroken(
            f"the broker's driver is installed, and importing it fails: {what}",
            where=where,
            remedy=f"correct what the error names, or install it again: pip install 'celery[{scheme}]'",
        )
    if isinstance(exc, (ImportError, AttributeError)):
        return DriverMissing(
            f"the broker's driver is not installed: {what}", where=where, remedy=f"pip install 'celery[{scheme}]'"
        )
    if isinstance(exc, KeyError):
        return _no_broker(f"Celery knows no {scheme}://", where)
    if isinstance(exc, ValueError):
        # its text may contain a part of the password
        return _no_broker("its URL cannot be read", where)
    return DemoFailed(
        f"the broker cannot be used: {what}", where=where, remedy="check that it runs, and check user and password"
    )


def _no_broker(what: str, where: str) -> ConfigurationError:
    return ConfigurationError(
        f"no such broker: {what}",
        where=where,
        remedy="write redis://host:6379/0 or amqp://user:password@host//, with special characters as %XX",
    )
