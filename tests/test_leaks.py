"""`tests/leaks.py` finds the test servers' passwords wherever they appear."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LEAKS = """
import logging, warnings
from rootcellar.errors import StoreUnavailable
from tests.commands import execute
from tests.servers import IN_URL, PASSWORD

def test_clean(tmp_path):
    (tmp_path / "app.py").write_text(PASSWORD)

def test_printed():
    print(PASSWORD)

def test_logged():
    logging.getLogger("x").warning("redis://:%s@host", IN_URL)

def test_half_of_it():
    print(PASSWORD.rpartition("@")[2])

def test_in_an_error():
    try:
        raise StoreUnavailable("no", where=repr(PASSWORD))
    except StoreUnavailable:
        pass

def test_in_a_file(tmp_path):
    (tmp_path / "worker.log").write_text(f"password={PASSWORD}")

def test_in_a_command(tmp_path):
    execute(["echo", "amqp://u:" + IN_URL])
"""


def test_leaked_password_fails_the_test(tmp_path: Path) -> None:
    path = tmp_path / "test_leaking.py"
    path.write_text(LEAKS)
    command = [sys.executable, "-m", "pytest", "-p", "tests.leaks", "-p", "no:cacheprovider", "-rA", "--tb=short"]
    done = subprocess.run(
        [*command, f"--rootdir={tmp_path}", str(path)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    outcomes = {
        line.split("::")[1].split(" ")[0]: line.split(" ")[0] for line in done.stdout.splitlines() if "::" in line
    }
    assert outcomes.pop("test_clean") == "PASSED", done.stdout
    assert set(outcomes) == {
        "test_printed",
        "test_logged",
        "test_half_of_it",
        "test_in_an_error",
        "test_in_a_file",
        "test_in_a_command",
    }
    assert set(outcomes.values()) <= {"FAILED", "ERROR"}, done.stdout
    assert done.returncode == 1
