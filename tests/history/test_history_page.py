"""docs/history.md runs as printed, and shows the output that it has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import environment
from tests.test_docs import Page


@pytest.mark.timeout(600)  # it starts about 25 processes, one after the other
def test_page_history_works(tmp_path: Path) -> None:
    page = Page("docs/history.md", {})
    page.write_files(tmp_path)
    variables = environment({"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "TZ": "UTC"})
    for command, expected in page.commands():
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            variables[name] = value
            continue
        # a shell, because of pipes and quotes
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=tmp_path,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        wanted = ".*".join(re.escape(part.strip()) for part in expected.split("…"))
        assert re.search(wanted, done.stdout, re.DOTALL), f"{command}\n{expected}\n{done.stdout}"
    assert {"failures.csv", "tasks.jsonl.gz", "tasks.parquet"} <= {path.name for path in tmp_path.iterdir()}
