"""Runs the command `rootcellar` like a user: in another process, in a pipe or on a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from rootcellar.cli import main

SECONDS = 120.0
#: variables of the developer's environment that must not affect the tests
_IGNORED = re.compile("CELERY_.*|ROOTCELLAR_.*|COLUMNS|LINES|NO_COLOR|FORCE_COLOR|TTY_.*")


@dataclass(frozen=True)
class Ended:
    """A command that has ended: its exit status and output; on a terminal `out` has both streams."""

    status: int
    out: str
    err: str


def command(*args: str) -> list[str]:
    """Return the command line of the installed command."""
    return [str(Path(sys.executable).with_name("rootcellar")), *args]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment without variables that affect the command, and with `extra`."""
    kept = {name: value for name, value in os.environ.items() if not _IGNORED.fullmatch(name)}
    return {**kept, **(extra or {})}


def run(*args: str, env: Mapping[str, str] | None = None, cwd: Path | None = None, prefix: Sequence[str] = ()) -> Ended:
    """Run `rootcellar` with its output in pipes; `prefix` goes before it on the command line."""
    return execute([*prefix, *command(*args)], env=env, cwd=cwd)


def run_here(*args: str) -> Ended:
    """Run `rootcellar` in this process, which is faster, with its output in pipes."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with (
        mock.patch.dict(os.environ, environment({"COLUMNS": "80"}), clear=True),
        mock.patch.object(sys, "argv", ["rootcellar", *args]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as exit:
            status = exit.code
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    assert isinstance(status, int)
    return Ended(status, *(pipe.buffer.getvalue().decode() for pipe in (out, err)))


def run_without(module: str, *args: str) -> Ended:
    """Run `rootcellar` as if the Python module were not installed."""
    return run_after(f"sys.modules[{module!r}] = None", *args)


def run_after(statement: str, *args: str, env: Mapping[str, str] | None = None) -> Ended:
    """Run `rootcellar` in a Python that has executed a statement."""
    program = f"import sys; sys.argv[0] = 'rootcellar'; {statement}; from rootcellar.cli import main; main()"
    return execute([sys.executable, "-c", program, *args], env=env)


def execute(line: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Ended:
    """Run any command with its output in pipes."""
    done = subprocess.run(
        line, env=environment(env), cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def run_on_terminal(*args: str, columns: int = 80, typed: str = "") -> Ended:
    """Run `rootcellar` on a terminal with this number of columns, with `typed` as its input."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = subprocess.Popen(
        command(*args), env=environment({"TERM": "xterm"}), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    os.write(ours, typed.encode())
    shown = b""
    with contextlib.suppress(OSError):  # the terminal is closed when the command has ended
        while piece := os.read(ours, 65536):
            shown += piece
    os.close(ours)
    return Ended(process.wait(SECONDS), shown.decode().replace("\r\n", "\n"), "")


def assert_one_line(ended: Ended, *words: str, secret: str = "") -> None:
    """Assert that a command failed with one line on standard error, with all the `words` in it, and not the secret."""
    assert ended.status == 1, ended
    assert ended.out == "", ended
    assert re.fullmatch(r"rootcellar: [^\n]+\n", ended.err), ended
    assert " -> " in ended.err, "no remedy"
    for word in words:
        assert word in ended.err, ended
    if secret:
        assert secret not in ended.err
