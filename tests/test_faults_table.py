"""The table of faults names tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent
TABLE = TESTS / "FAULTS.md"
#: a test as pytest names it, without parameters; several modules take their tests from the conformance suites
TEST_ID = re.compile(r"`?(tests/[\w/]+\.py)((?:::\w+)*)")
SUITES = {"test_store_conformance.py": "store", "test_backend_conformance.py": "backend"}
SUITES_FOLDER = TESTS.parent / "src/rootcellar/testing/suites"
KINDS = {"A": 8, "B": 7, "C": 4, "D": 10, "E": 4, "F": 6, "G": 21, "H": 6}


@cache
def names_in(file: Path) -> set[str]:
    """Return the names of a file's functions and classes, those of methods as ``Class::method``."""
    found: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = (one.name for one in node.body if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef)))
            found.update(f"{node.name}::{name}" for name in methods)
    return found


def rows() -> dict[str, list[str]]:
    """Return the cells of each row of the table, by the fault's name."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    found: dict[str, list[str]] = {}
    for line in lines:
        if match := re.match(r"\| ([A-H]\d+) \|", line):
            found.setdefault(match[1], []).append(line)
    return found


def test_every_fault_has_a_row_with_a_test() -> None:
    table = rows()
    expected = {f"{kind}{number}" for kind, count in KINDS.items() for number in range(1, count + 1)}
    assert set(table) == expected
    assert [name for name, lines in table.items() if not any(TEST_ID.search(line) for line in lines)] == []


def test_every_test_of_the_table_exists() -> None:
    missing = []
    for lines in rows().values():
        for file, name in TEST_ID.findall("\n".join(lines)):
            path = TESTS.parent / file
            sources = [path, *(SUITES_FOLDER / SUITES[path.name]).glob("*.py")] if path.name in SUITES else [path]
            known = set().union(*(names_in(source) for source in sources if source.exists()))
            if not path.exists() or (name and name.removeprefix("::") not in known):
                missing.append(file + name)
    assert missing == []
