"""Runs a page of the documentation: its files are written, and its commands run in a shell, in order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.commands import environment
from tests.test_docs import Page


def play(name: str, folder: Path) -> None:
    """Run a page, and assert that each command prints what the page shows. ``…`` stands for any output."""
    page = Page(name, {})
    page.write_files(folder)
    variables = environment({"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "TZ": "UTC"})
    for command, expected in page.commands():
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            variables[name] = value
            continue
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        wanted = ".*".join(re.escape(part.strip()) for part in expected.split("…"))
        assert re.search(wanted, done.stdout, re.DOTALL), f"{command}\n{expected}\n{done.stdout}"
