"""Checks that the test servers' passwords appear in no log, error, output or file of the whole run.

The servers' password has every special character. However it is encoded, escaped or cut, one of its
two words survives, so the check searches these. It skips files that a test itself writes (its apps, its `.env`).

A test fails if a word appears in it; the run fails if a word appears outside of a test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rootcellar.errors import RootcellarError
from rootcellar.testing import workers
from tests import commands, servers

_WORDS = re.compile("|".join(servers.PASSWORD_WORDS), re.IGNORECASE)
_CONTEXT = 100
#: files that tests write themselves, with URLs in them
_OWN_FILES = {".py", ".pyc", ".env", ".ini", ".conf", ".txt", ".toml"}
_LARGEST_FILE = 50_000_000

_found: list[str] = []


def look(text: str, where: str) -> None:
    """Record if a password is in a text."""
    if match := _WORDS.search(text):
        around = text[max(0, match.start() - _CONTEXT) : match.end() + _CONTEXT]
        _found.append(f"{where}: …{_WORDS.sub('<<PASSWORD>>', around)}…")


def look_into_files(folder: Path) -> None:
    """Check every file below a folder, except those that tests write themselves."""
    for path in folder.rglob("*"):
        if path.suffix in _OWN_FILES or path.name.startswith(".env") or path.is_symlink() or not path.is_file():
            continue
        if path.stat().st_size < _LARGEST_FILE:
            look(path.read_bytes().decode("latin-1"), str(path))


def take() -> list[str]:
    """Return the findings since the last call."""
    found, _found[:] = list(_found), []
    return found


def _watch_errors() -> None:
    """Check every error of rootcellar when it is created."""
    make = RootcellarError.__init__

    def watched(self: RootcellarError, what: str, *args: Any, **kwargs: Any) -> None:
        make(self, what, *args, **kwargs)
        look(f"{what} {self} {args} {kwargs}", f"a {type(self).__name__}")

    RootcellarError.__init__ = watched  # type: ignore[method-assign]


def _watch_servers() -> None:
    """Check a server's log when it is closed: rootcellar may send the password only to log in."""
    close = servers.Server.close

    def watched(self: servers.Server) -> None:
        if self.log.exists():
            look(self.log.read_text(errors="replace"), f"the log of {self.name}")
        close(self)

    servers.Server.close = watched  # type: ignore[method-assign]


def _watch_workers() -> None:
    """Check a worker's log when it has ended."""
    kill = workers.Worker.kill

    def watched(self: workers.Worker) -> int:
        status = kill(self)
        look(self.log.read_text(errors="replace"), f"the log of worker {self.name}")
        return status

    workers.Worker.kill = watched  # type: ignore[method-assign]


def _watch_commands() -> None:
    """Check the output of a command when it has ended."""
    make = commands.Ended.__init__

    def watched(self: commands.Ended, status: int, out: str, err: str) -> None:
        make(self, status, out, err)
        look(out + err, "the output of a command")

    commands.Ended.__init__ = watched  # type: ignore[method-assign]


_watch_errors()
_watch_servers()
_watch_workers()
_watch_commands()

# -- pytest's hooks; tests/conftest.py imports them


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    """Fail a test if a password is in its output, logs, errors or files."""
    report = yield
    for title, text in report.sections:
        look(text, title)
    if call.when == "teardown":
        folder = getattr(item, "funcargs", {}).get("tmp_path")
        if folder is not None and folder.exists():
            look_into_files(folder)
    if call.when == "setup":
        return report
    found = take()
    if found and report.passed:
        report.outcome = "failed"
        report.longrepr = "A password is where it must not be:\n" + "\n".join(found)
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if a password appeared outside of the tests, such as in a server's log."""
    found = take()
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["leaks"] = found  # pytest-xdist: the controller fails the run
    elif found:
        _fail(session, found)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Collect the findings of a worker of pytest-xdist."""
    _found.extend(getattr(node, "workeroutput", {}).get("leaks", ()))


def _fail(session: pytest.Session, found: list[str]) -> None:
    session.exitstatus = pytest.ExitCode.TESTS_FAILED
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.section("A password is where it must not be", red=True)
        for line in found:
            reporter.write_line(line)
