"""Watches that the passwords of the test servers appear nowhere: in no log, error, output or file of the whole run.

The servers' password has every character that is special somewhere. However it is encoded, escaped or cut, one of its
two words survives, so these are what is looked for. What a test itself writes (its apps, its `.env`) is not looked at.

A test in which a word turns up fails; what turns up outside a test fails the run.
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
#: what tests write themselves, with URLs in it
_OWN_FILES = {".py", ".pyc", ".env", ".ini", ".conf", ".txt", ".toml"}
_LARGEST_FILE = 50_000_000

_found: list[str] = []


def look(text: str, where: str) -> None:
    """Note it if a password is in a text that a test gets to see."""
    if match := _WORDS.search(text):
        around = text[max(0, match.start() - _CONTEXT) : match.end() + _CONTEXT]
        _found.append(f"{where}: …{_WORDS.sub('<<PASSWORD>>', around)}…")


def look_into_files(folder: Path) -> None:
    """Look at every file below a folder, but for those that tests write themselves."""
    for path in folder.rglob("*"):
        if path.suffix in _OWN_FILES or path.name.startswith(".env") or path.is_symlink() or not path.is_file():
            continue
        if path.stat().st_size < _LARGEST_FILE:
            look(path.read_bytes().decode("latin-1"), str(path))


def take() -> list[str]:
    """Return what was found since the last call."""
    found, _found[:] = list(_found), []
    return found


def _watch_errors() -> None:
    """Look at every error of ours when it is made, whoever catches it."""
    make = RootcellarError.__init__

    def watched(self: RootcellarError, what: str, *args: Any, **kwargs: Any) -> None:
        make(self, what, *args, **kwargs)
        look(f"{what} {self} {args} {kwargs}", f"a {type(self).__name__}")

    RootcellarError.__init__ = watched  # type: ignore[method-assign]


def _watch_servers() -> None:
    """Look at a server's log when it is closed: nothing of ours may tell it the password but to log in."""
    close = servers.Server.close

    def watched(self: servers.Server) -> None:
        if self.log.exists():
            look(self.log.read_text(errors="replace"), f"the log of {self.name}")
        close(self)

    servers.Server.close = watched  # type: ignore[method-assign]


def _watch_workers() -> None:
    """Look at a worker's log when it has ended."""
    kill = workers.Worker.kill

    def watched(self: workers.Worker) -> int:
        status = kill(self)
        look(self.log.read_text(errors="replace"), f"the log of worker {self.name}")
        return status

    workers.Worker.kill = watched  # type: ignore[method-assign]


def _watch_commands() -> None:
    """Look at what a command prints: the run is over when it is an :class:`Ended`."""
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
    """Fail the test in whose output, logs, errors or files a password is."""
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
    """Fail the run if a password turned up outside the tests, such as in a server's log."""
    found = take()
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["leaks"] = found  # pytest-xdist: the controller fails the run
    elif found:
        _fail(session, found)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker of pytest-xdist found."""
    _found.extend(getattr(node, "workeroutput", {}).get("leaks", ()))


def _fail(session: pytest.Session, found: list[str]) -> None:
    session.exitstatus = pytest.ExitCode.TESTS_FAILED
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.section("A password is where it must not be", red=True)
        for line in found:
            reporter.write_line(line)
