"""docs/migration.md runs as printed, with a worker and a client that work all the time."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from rootcellar.stores.dual import DualStore
from rootcellar.testing.child_processes import die_with_parent
from tests.commands import environment
from tests.helpers import wait_until
from tests.servers import RedisServer
from tests.test_docs import Page

DATABASE = "postgresql://celery:secret@localhost:5432/results"
#: lines that are there only if a step takes long; the page describes them
PROGRESS = re.compile(r"^(Waiting for .*|.*results read.* \(\d+ %\).*|[\d,]+ results compared|\s*)\n", re.MULTILINE)
#: counts that are named only if they are not 0, such as of what was stored while two stores were compared
SOMETIMES = re.compile(r", [\d,]+ (repaired|only in the target|removed|refused|unreadable)\b")
COLORS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[^\n]*\r(?!\n)")
SECONDS = 120.0


class Shop:
    """Runs the commands of the page in a folder, in their order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._env = environment({"PATH": path, "TZ": "UTC", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"})
        self._worker: subprocess.Popen[bytes] | None = None
        self._traffic: subprocess.Popen[bytes] | None = None

    def run(self, command: str) -> str:
        """Run a command; return what one sees."""
        if command.startswith("export "):
            name, _, self._env[name] = command.removeprefix("export ").partition("=")
        elif command.startswith("unset "):
            del self._env[command.removeprefix("unset ")]
        elif command.startswith("celery "):
            self._restart_worker(command)
        elif command == "python traffic.py &":
            self._start_traffic()
        elif command == "rootcellar migrate":
            return self._answer_yes(command)
        else:
            return self._run(command)
        return ""

    def _run(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self._folder,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )
        if command.startswith("kill $"):
            assert self._traffic is not None
            assert self._traffic.wait(SECONDS) == -signal.SIGTERM, "it has worked until then"
            self._traffic = None
        assert done.returncode == 0 or "rootcellar: " in done.stdout or "  silent" in done.stdout, done.stdout
        return done.stdout

    def _restart_worker(self, command: str) -> None:
        if self._worker is not None:
            self._worker.terminate()
            self._worker.wait(SECONDS)
        with (self._folder / "worker.log").open("ab") as log:
            self._worker = subprocess.Popen(
                die_with_parent(command.removesuffix(" &").split()),
                cwd=self._folder,
                env=self._env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _start_traffic(self) -> None:
        before = self._orders()
        with (self._folder / "traffic.log").open("ab") as log:
            line = die_with_parent([sys.executable, "traffic.py"])
            self._traffic = subprocess.Popen(line, cwd=self._folder, env=self._env, stdout=log, stderr=log)
        wait_until(lambda: self._orders() > before + 3, "orders are paid", timeout=SECONDS)

    def _orders(self) -> int:
        path = self._folder / "orders.txt"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def _answer_yes(self, command: str) -> str:
        """Run a command on a terminal, and answer each question when it is asked."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            command.split(), cwd=self._folder, env=self._env, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # the terminal is closed when the command has ended
            while piece := os.read(ours, 65536):
                shown += piece
                if shown.endswith(b"[y/N]: "):
                    os.write(ours, b"y\n")
        os.close(ours)
        assert process.wait(SECONDS) == 0
        return COLORS.sub("", shown.decode().replace("\r\n", "\n"))

    def close(self) -> None:
        if self._traffic is not None:
            self._traffic.kill()
            self._traffic.wait()
        if self._worker is not None:
            os.killpg(self._worker.pid, signal.SIGKILL)
            self._worker.wait()


@contextmanager
def shop(folder: Path) -> Iterator[Shop]:
    opened = Shop(folder)
    try:
        yield opened
    finally:
        opened.close()


def pattern(expected: str) -> str:
    """Return a regular expression for what the page shows: numbers may differ, and lines may be wrapped elsewhere."""
    found = []
    for part in expected.split("…"):
        text = re.sub(r"Real reads [^\n]*", "Real reads ANYTHING", part)
        text = re.sub(r"for \d+ s\b", "for DURATION", text)
        words = r"\s+".join(re.escape(word) for word in text.split())
        words = re.sub(r"\d[\d,]*", r"[\\d,]+", words.replace("deploy@web1", "USER").replace("web1", "HOST"))
        words = words.replace("USER", r"\S+").replace("HOST", r"[^\s/:]+").replace("DURATION", r"[\d\w ]+?")
        found.append(words.replace("ANYTHING", r"[^\n]*"))
    return ".*".join(found)


@pytest.mark.timeout(400)
def test_page_migration_works(tmp_path: Path, postgres_url: str, redis_server: RedisServer) -> None:
    redis_server.flush()
    urls = {f"redis://localhost:6379/{number}": redis_server.database_url(number) for number in range(2)}
    page = Page("docs/migration.md", {})
    page.write_files(tmp_path)
    # what a message says of each place, and what the page says
    places = {urls["redis://localhost:6379/1"].partition("//")[2]: "localhost:6379/1"}
    user, _, rest = postgres_url.partition("//")[2].partition(":")
    place = rest.rpartition("@")[2]
    places |= {
        f"{user}:**@{place}": "celery:**@localhost:5432/results",
        f"{user}@{place}": "celery@localhost:5432/results",
    }
    with shop(tmp_path) as here:
        for command, expected in page.commands():
            real = command.replace(DATABASE, postgres_url)
            for example, url in urls.items():
                real = real.replace(example, url)
            shown = SOMETIMES.sub("", PROGRESS.sub("", here.run(real)))
            for real_place, shown_as in places.items():
                shown = shown.replace(real_place, shown_as)
            assert re.search(pattern(expected), shown, re.DOTALL), f"{command}\n{expected}\n{shown}"
    assert "Traceback" not in (tmp_path / "worker.log").read_text()


def test_option_of_the_page_names_the_target() -> None:
    (block,) = [block for block in Page("docs/migration.md", {}).of("python") if "migrate_to" in block]
    settings: dict[str, Any] = {}
    exec(block, settings)  # noqa: S102 - a block of our own page
    app = Celery("shop", set_as_current=False)
    app.conf.update({name: value for name, value in settings.items() if not name.startswith("__")})
    store = app.backend.store
    assert isinstance(store, DualStore)
    assert (store.source.where, store.target.where) == (
        "redis localhost:6379/1",
        "postgresql celery@localhost:5432/results",
    )
    store.close()
