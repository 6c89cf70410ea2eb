"""Real Celery workers for tests, each a process (with its pool children) of its own.

All times are in seconds. A worker's whole process group ends with the test run: its main process gets SIGKILL when the
thread that started it ends, and Celery kills its pool's children when the main process ends.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

import psutil

from rootcellar.testing.child_processes import call_at_exit, die_with_parent, wait_gone

START_SECONDS = 120.0
STOP_SECONDS = 30.0

Pool = Literal["prefork", "threads", "solo", "gevent", "eventlet"]


class WorkerError(AssertionError):
    """A worker did not start, stop or log as expected; the message has the end of its log."""


_workers: list[Worker] = []


def _kill_all() -> None:
    for worker in list(_workers):
        worker.kill()


call_at_exit(_kill_all)


class Worker:
    """A worker for the Celery app in module `app`; a context manager that starts it and, at the end, kills it.

    It kills because a warm stop can take 10 s: a test of a warm stop calls `stop` itself. The log is in the file `log`,
    which is kept if the `with` block fails.
    """

    def __init__(
        self,
        app: str,
        *,
        env: Mapping[str, str] | None = None,
        pool: Pool = "prefork",
        concurrency: int = 1,
        args: Sequence[str] = (),
        cwd: Path | None = None,
    ) -> None:
        self.name = f"test-{secrets.token_hex(4)}"
        self._cwd = cwd
        self.folder = Path(tempfile.mkdtemp(prefix="rootcellar-worker-"))
        self.log = self.folder / "worker.log"
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", **(env or {})}
        self._command = [sys.executable, "-m", "celery", "-A", app, "worker"]
        self._command += ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "INFO"]
        self._command += ["-P", pool, "-c", str(concurrency), "-n", f"{self.name}@%h", *args]
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._lines: list[str] = []
        self._news = threading.Condition()  # guards _lines; notified of each line and of the end of the log

    @property
    def running(self) -> bool:
        """Whether the worker's main process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The main process's id; raises WorkerError when the worker was not started."""
        if self._process is None:
            raise WorkerError(f"worker {self.name} was not started")
        return self._process.pid

    def start(self) -> None:
        """Start the worker, unless it runs, and wait until it consumes tasks.

        Raises WorkerError if it ends, or is not ready within START_SECONDS.
        """
        if self.running:
            return
        mark = self.mark()
        self._process = subprocess.Popen(
            die_with_parent(self._command),
            cwd=self._cwd,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that the whole group can be killed in one call
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), name=f"log of {self.name}")
        self._reader.daemon = True
        self._reader.start()
        _workers.append(self)
        try:
            self.wait_for_log(rf"{self.name}@\S+ ready\.", START_SECONDS, since=mark)
        except WorkerError:
            self.kill()
            raise

    def stop(self, timeout: float = STOP_SECONDS) -> int:
        """Shut down warmly (SIGTERM): running tasks finish. After `timeout` seconds, kill.

        It takes about 1 s with prefork and Redis, 5 s with gevent and eventlet, and 10 s with threads and RabbitMQ:
        Celery's event loop notices the signal only when its poll times out.

        Returns the exit status of the main process: 0, or -9 when it had to be killed.
        """
        if self.running:
            assert self._process is not None
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):  # then it is killed below
                self._process.wait(timeout)
        return self.kill()

    def kill(self) -> int:
        """Kill (SIGKILL) the main process and all its children in one call; return the main process's exit status.

        Raises WorkerError when a process survives that.
        """
        if self._process is None:
            raise WorkerError(f"worker {self.name} was not started")
        children = self._children()
        with contextlib.suppress(ProcessLookupError):  # all gone already
            os.killpg(self._process.pid, signal.SIGKILL)
        status = self._process.wait()
        if self in _workers:
            _workers.remove(self)
        assert self._reader is not None
        # The log ends when the last process that holds the pipe has ended.
        self._reader.join(STOP_SECONDS)
        # a process closes the pipe a moment before it has ended
        if self._reader.is_alive() or not wait_gone(children, STOP_SECONDS):
            self._fail("has processes that outlived SIGKILL")
        return status

    def children(self) -> list[int]:
        """Return the process ids of the pool's children, in the order they started; threads and solo have none."""
        alive = [process for process in self._children() if not wait_gone([process], 0)]
        return [process.pid for process in sorted(alive, key=lambda process: (process.create_time(), process.pid))]

    def _children(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.pid).children()
        except psutil.NoSuchProcess:
            return []

    def kill_child(self, pid: int | None = None) -> int:
        """Kill (SIGKILL) one child of the pool, the first unless `pid` says which; return its process id.

        Raises WorkerError when there is no such child.
        """
        children = self.children()
        victim = pid if pid is not None else next(iter(children), None)
        if victim is None or victim not in children:
            self._fail(f"has no child {pid or ''} to kill")
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        return victim

    def mark(self) -> int:
        """Return the number of log lines so far, to be given to `wait_for_log` as `since`."""
        with self._news:
            return len(self._lines)

    def wait_for_log(self, pattern: str, timeout: float = 20.0, since: int = 0) -> re.Match[str]:
        """Wait for a log line, from line number `since` on, in which the regular expression is found.

        Raises WorkerError when there is none within `timeout` seconds or the worker ends without one.
        """
        deadline = time.monotonic() + timeout
        seen = since
        while True:
            with self._news:
                # read before the lines, so that no line can follow the end
                ended = self._reader is None or not self._reader.is_alive()
                for line in self._lines[seen:]:
                    if match := re.search(pattern, line):
                        return match
                seen = max(seen, len(self._lines))
                left = deadline - time.monotonic()
                if not ended and left > 0:
                    # each line notifies; the limit is needed because nothing notifies of the reader's end
                    self._news.wait(min(left, 0.5))
                    continue
            self._fail(f"ended without logging {pattern!r}" if ended else f"did not log {pattern!r} in {timeout:g} s")

    def tail(self, lines: int = 40) -> str:
        """Return the last `lines` lines of the log."""
        with self._news:
            return "".join(self._lines[-lines:]) or "(the log is empty)"

    def __enter__(self) -> Worker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout, self.log.open("a") as log:
            for line in process.stdout:
                log.write(line)
                log.flush()
                with self._news:
                    self._lines.append(line)
                    self._news.notify_all()

    def _fail(self, problem: str) -> None:
        raise WorkerError(f"worker {self.name} {problem}; the end of its log, {self.log}:\n{self.tail()}")
