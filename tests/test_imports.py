"""A Python package that cannot be imported is missing or broken; the error names the cause."""

from __future__ import annotations

import pytest

from rootcellar.errors import DriverBroken, DriverMissing
from rootcellar.support.imports import import_failure
from tests.commands import run_after

STORES = [
    ("psycopg", "psycopg.conninfo", "postgresql://me@127.0.0.1/x"),
    ("redis", "redis.retry", "redis://127.0.0.1/0"),
    ("pymysql", "pymysql.cursors", "mysql://me@127.0.0.1/x"),
    ("pymongo", "pymongo.uri_parser", "mongodb://127.0.0.1/x"),
]


@pytest.mark.parametrize(("module", "part", "url"), [*STORES, ("hiredis", "", "redis://127.0.0.1/0")])
@pytest.mark.parametrize("command", ["check", "history"])
def test_missing_driver_is_named_with_its_extra(module: str, part: str, url: str, command: str) -> None:
    ended = run_after(f"sys.modules[{module!r}] = None", *_arguments(command, url))
    assert ended.status
    printed = " ".join((ended.out + ended.err).split())
    assert "is not installed" in printed
    assert "pip install 'rootcellar[" in printed


@pytest.mark.parametrize(("module", "part", "url"), STORES)
@pytest.mark.parametrize("command", ["check", "history"])
def test_broken_driver_is_named_with_its_cause(module: str, part: str, url: str, command: str) -> None:
    ended = run_after(f"import {module}; sys.modules[{part!r}] = None", *_arguments(command, url))
    assert ended.status
    printed = " ".join((ended.out + ended.err).split())
    assert "is installed, but importing it fails" in printed
    assert part in printed
    assert "is not installed" not in printed


def test_driver_without_its_c_library_is_broken() -> None:
    ended = run_after("import os; os.environ['PSYCOPG_IMPL'] = 'none-such'", "history", "-b", STORES[0][2])
    printed = " ".join((ended.out + ended.err).split())
    assert "is installed, but importing it fails: ImportError" in printed
    assert "none-such" in printed


def test_missing_package_of_a_driver_breaks_it() -> None:
    missing = import_failure(
        ModuleNotFoundError("No module named 'one'", name="one"), ["one"], "one", where="", install="pip"
    )
    assert type(missing) is DriverMissing
    broken = import_failure(
        ModuleNotFoundError("No module named 'two'", name="two"), ["one"], "one", where="", install="pip"
    )
    assert type(broken) is DriverBroken
    assert "No module named 'two'" in str(broken)


def _arguments(command: str, url: str) -> tuple[str, ...]:
    return (command, "-b", f"rootcellar+{url}") if command == "history" else (command, f"rootcellar+{url}")
