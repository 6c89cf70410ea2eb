"""Exceptions at random moments of a store's calls, beside eight other threads; see tests/interruptions.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import HEAVY
from tests.servers import die_with_parent
from tests.waiting.helpers import ROOT

ROUNDS = 15_000 if HEAVY else 1_500


@pytest.mark.parametrize("kind", ["postgres", "redis", "sqlite", "mysql"])
def test_interruptions_break_nothing(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/results.sqlite3" if kind == "sqlite" else request.getfixturevalue(f"{kind}_url")
    command = [sys.executable, "-m", "tests.interruptions", "--store", kind, "--url", url]
    command += ["--rounds", str(ROUNDS), "--seed", "20310506"]
    done = subprocess.run(die_with_parent(command), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-5_000:]
    assert f"{ROUNDS:,} rounds on {kind}" in done.stdout
    assert "No thread hung" in done.stdout
