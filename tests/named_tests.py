"""Finds the tests that a page names, and those that do not exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
#: pytest's id of a test, without parameters
TEST_ID = re.compile(r"(tests/[\w/]+\.py)((?:::\w+)*)")
#: modules with the tests of a suite of rootcellar.testing -> the suite
SUITES = {"test_store_conformance.py": "store", "test_backend_conformance.py": "backend"}
SUITES_FOLDER = ROOT / "src/rootcellar/testing/suites"


def missing_tests(text: str) -> list[str]:
    """Return the ids of tests in a text that do not exist."""
    return [file + name for file, name in TEST_ID.findall(text) if not _exists(ROOT / file, name.removeprefix("::"))]


def _exists(file: Path, name: str) -> bool:
    if not file.exists():
        return False
    sources = [file, *(SUITES_FOLDER / SUITES[file.name]).glob("*.py")] if file.name in SUITES else [file]
    return not name or any(name in _names_in(source) for source in sources)


@cache
def _names_in(file: Path) -> set[str]:
    """Return the names of a file's functions and classes, those of methods as ``Class::method``."""
    found: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = (one.name for one in node.body if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef)))
            found.update(f"{node.name}::{name}" for name in methods)
    return found
