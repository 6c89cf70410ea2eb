"""The tests write the table of systems: a claim that is not true fails the run."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from rootcellar.testing.suites import backend, store
from tests.conformance.registered import STORES
from tests.conformance.systems import FEATURES, PAGE, TITLES, UNLISTED, page, read_claims

ROOT = Path(__file__).parent.parent
SUITE = """
import pytest
from tests.conformance.registered import SQLITE, POSTGRES

@pytest.mark.parametrize("under_test", [SQLITE, POSTGRES], ids=str)
class TestQueries:
    def test_one(self, under_test): pass
    def test_other(self, under_test):
        if under_test is SQLITE: pytest.skip("it cannot")
"""
FEATURE = FEATURES["stores", "TestQueries"]


def run(folder: Path, *options: str, suite: str = SUITE) -> tuple[int, str]:
    (folder / "test_suite.py").write_text(suite)
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.conformance.systems", f"--systems-page={folder}/page.md"]
    done = subprocess.run(
        [*command, f"--rootdir={folder}", str(folder), *options], cwd=ROOT, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def test_table_is_written_by_one_run_and_checked_by_another(tmp_path: Path) -> None:
    written = tmp_path / "page.md"
    status, said = run(tmp_path, "--write-systems")
    assert status == 0, said
    assert read_claims(written.read_text()) == {("SQLite", FEATURE): "1 of 2", ("PostgreSQL", FEATURE): "yes"}
    assert run(tmp_path)[0] == 0

    written.write_text(page({("SQLite", FEATURE): "yes", ("Redis", FEATURE): "yes"}))
    status, said = run(tmp_path)
    assert status == 1, "SQLite's yes is not true"
    assert "SQLite" in said.partition("page.md is not true")[2]
    assert "it cannot" in said
    assert run(tmp_path, "-k", "one")[0] == 0, "an incomplete group is not judged"
    assert run(tmp_path, "--write-systems", "-k", "postgres")[0] == 0
    assert read_claims(written.read_text()) == {
        ("SQLite", FEATURE): "yes",
        ("PostgreSQL", FEATURE): "yes",
        ("Redis", FEATURE): "yes",
    }, "other cells stay"


@pytest.mark.parametrize("reason", ["Celery before 5.7 cannot", "this Redis is built without TLS"])
def test_skip_for_another_version_does_not_make_the_table_untrue(tmp_path: Path, reason: str) -> None:
    (tmp_path / "page.md").write_text(page({("SQLite", FEATURE): "yes"}))
    assert run(tmp_path)[0] == 1
    assert run(tmp_path, suite=SUITE.replace("it cannot", reason))[0] == 0


@pytest.mark.parametrize(("name", "suite"), [("stores", store), ("backend", backend)])
def test_every_group_of_tests_is_a_feature(name: str, suite: object) -> None:
    classes = {key for key, _ in inspect.getmembers(suite, inspect.isclass) if key.startswith("Test")}
    assert classes - {"TestEssentials"} == {key for one, key in FEATURES if one == name and key.startswith("Test")}


@pytest.mark.parametrize("suite", [store, backend])
def test_suite_has_every_group_of_tests_of_its_files(suite: ModuleType) -> None:
    folder = Path(str(suite.__file__)).parent
    written = {name for file in folder.glob("*.py") for name in re.findall(r"^class (Test\w+)", file.read_text(), re.M)}
    assert written == {name for name in suite.__all__ if name.startswith("Test")}


def test_every_system_is_in_the_table() -> None:
    systems = {TITLES[store.name] for store in STORES if store.name not in UNLISTED}
    assert systems == {system for system, _ in read_claims(PAGE.read_text())}
