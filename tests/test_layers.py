"""The rules of ARCHITECTURE.md hold, and each contract fails for a forbidden import."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("importlinter", reason="import-linter needs Python 3.11")

ROOT = Path(__file__).parent.parent
CONTRACTS = ROOT / ".importlinter"

#: contract -> a file of the package, and an import that the contract forbids there
FORBIDDEN = {
    "Each layer imports only those below it": ("stores/base.py", "from rootcellar.cli import main"),
    "A store knows nothing of Celery": ("stores/sqlite/store.py", "import kombu"),
    "The backend and its waiters know no server": ("waiting/blocking.py", "import psycopg"),
    "No store imports another one": ("stores/mysql/store.py", "from rootcellar.stores.sqlite import SQLiteStore"),
    "A hybrid knows no particular store": ("stores/hybrid/behind.py", "from rootcellar.stores.sql import rows"),
    "A store that is migrated knows no particular store": (
        "stores/dual/writing.py",
        "from rootcellar.stores.sqlite import SQLiteStore",
    ),
    "No circle of packages or of files": ("stores/sql/json_text.py", "from rootcellar.stores.sql import rows"),
}


def broken_contracts(source: Path) -> list[str]:
    """Return the contracts that the package in ``source`` breaks."""
    run = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo", CONTRACTS],
        cwd=source,
        env={**os.environ, "PYTHONPATH": str(source), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    names = [line.removesuffix(" BROKEN") for line in run.stdout.splitlines() if line.endswith(" BROKEN")]
    assert (run.returncode != 0) == bool(names), run.stdout + run.stderr
    return names


@pytest.fixture
def source(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "src/rootcellar", tmp_path / "rootcellar", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_package_keeps_every_contract(source: Path) -> None:
    assert broken_contracts(source) == []


@pytest.mark.parametrize("contract", FORBIDDEN)
def test_contract_is_broken_by_an_import_that_it_forbids(source: Path, contract: str) -> None:
    file, statement = FORBIDDEN[contract]
    path = source / "rootcellar" / file
    text = path.read_text(encoding="utf-8")
    marker = "from __future__ import annotations\n"
    assert marker in text
    path.write_text(text.replace(marker, f"{marker}\n{statement}\n", 1), encoding="utf-8")
    assert contract in broken_contracts(source)


def test_every_contract_is_tried() -> None:
    text = CONTRACTS.read_text(encoding="utf-8")
    names = [line.removeprefix("name = ") for line in text.splitlines() if line.startswith("name = ")]
    assert sorted(names) == sorted(FORBIDDEN)


def test_root_has_only_shared_modules_and_entry_points() -> None:
    modules = {path.stem for path in (ROOT / "src/rootcellar").glob("*.py")}
    assert modules == {
        "__init__",
        "__main__",
        "records",
        "errors",
        "urls",
        "rpc",
        "serializer",
        "opening",
        "celery_command",
    }
