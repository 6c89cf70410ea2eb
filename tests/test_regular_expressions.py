"""Every regular expression of the package is fast on hostile texts."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import rootcellar
from rootcellar.payloads.redaction.patterns import DEFAULTS
from rootcellar.payloads.redaction.redaction import Redaction

SIZE = 65_536
#: seconds of CPU on one text; five times what is allowed on a quiet machine, because a machine may be slow or busy. A
#: time that grows faster than the text is hundreds of times as long.
MOST = 1.0
#: of a pattern that is not called through a name: all ways to use it
METHODS = ("search", "match", "fullmatch", "findall", "sub", "split")
_USED = re.compile(r"\b(_?[A-Z][A-Z_]+)\.(search|match|fullmatch|findall|finditer|sub|split)\(")

TEXTS = [
    "a", "aA", "0", "1.", "-", "_", " ", "\t \n", '"', "'\"", "\\", '\\"', ":", "://", "a://b:c@", "@", "=", "a=",
    "?a=", ";a=", "%3a%2f%2f", "token", "password: ", "secret='", "4111 ", "\u4e00", "\u0627", "\U0001f600",
    "\x00\u202e", "{}", "[", "a.b.", "-- a: b\n", "`a`", "e+1",
]  # fmt: skip
#: what makes a text fail at its very end
ENDINGS = ["", "!", "\n\x01"]


def modules() -> Iterator[ModuleType]:
    yield rootcellar
    for found in pkgutil.walk_packages(rootcellar.__path__, "rootcellar."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def within(value: Any, depth: int = 0) -> Iterator[re.Pattern[Any]]:
    """Yield the patterns in a module's attribute: itself, in containers, classes and objects of ours."""
    if isinstance(value, re.Pattern):
        yield value
    elif depth > 4 or isinstance(value, ModuleType):
        return
    elif isinstance(value, (list, tuple, set, frozenset)):
        for each in value:
            yield from within(each, depth + 1)
    elif isinstance(value, dict):
        for each in (*value, *value.values()):
            yield from within(each, depth + 1)
    elif getattr(type(value) if not isinstance(value, type) else value, "__module__", "").startswith("rootcellar"):
        for each in list(getattr(value, "__dict__", {}).values()):
            yield from within(each, depth + 1)


def literals(path: Path) -> Iterator[tuple[re.Pattern[Any], str]]:
    """Yield the patterns that functions of ``re`` are given as they stand, and the function; not those of a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for function in (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))):
        for node in ast.walk(function):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
                continue
            is_re = isinstance(node.func.value, ast.Name) and node.func.value.id == "re"
            if is_re and isinstance(node.args[0], ast.Constant):
                yield re.compile(node.args[0].value), "search" if node.func.attr == "compile" else node.func.attr


def patterns() -> dict[tuple[str, str], re.Pattern[Any]]:
    """Return every regular expression of the package, by its text and the method that is called."""
    found: dict[tuple[str, str], re.Pattern[Any]] = {}
    sources = {module: Path(str(module.__file__)).read_text(encoding="utf-8") for module in modules()}
    used = {module: _USED.findall(source) for module, source in sources.items()}
    for module in sources:
        for name, value in list(vars(module).items()):
            for pattern in within(value):
                # where a name is imported, its own module says how it is used
                own = {method for one, method in used[module] if one == name}
                anywhere = {method for uses in used.values() for one, method in uses if one == name}
                for method in own or anywhere or METHODS:
                    found[repr(pattern.pattern), method] = pattern
        for pattern, method in literals(Path(str(module.__file__))):
            found[repr(pattern.pattern), method] = pattern
    return found


PATTERNS = patterns()


def test_known_expressions_are_found() -> None:
    texts = {text for text, _ in PATTERNS}
    assert any("passphrase" in text for text in texts), "of a module"
    assert repr(r"[\s,]+") in texts, "within a function"
    assert len(texts) > 40


@pytest.mark.parametrize(("text", "method"), sorted(PATTERNS), ids=lambda value: value[:40])
def test_regular_expression_takes_linear_time(text: str, method: str) -> None:
    pattern = PATTERNS[text, method]
    for unit in TEXTS:
        for ending in ENDINGS:
            given: Any = unit * (SIZE // len(unit)) + ending
            nothing: Any = ""
            if isinstance(pattern.pattern, bytes):
                given, nothing = given.encode("utf-8", "surrogatepass"), b""
            arguments = (nothing, given) if method == "sub" else (given,)
            started = time.process_time()
            found = getattr(pattern, method)(*arguments)
            if method == "finditer":
                sum(1 for _ in found)
            assert time.process_time() - started < MOST, (unit, ending)


@pytest.mark.parametrize("unit", TEXTS)
def test_redaction_takes_linear_time(unit: str) -> None:
    """The expressions that are made of patterns, with patterns of every kind."""
    redaction = Redaction([*DEFAULTS, "*a*b", "a.b", "x*", "-*keep", "-a_token"])
    for ending in ENDINGS:
        text = unit * (SIZE // len(unit)) + ending
        started = time.process_time()
        redaction.text(text)
        redaction.value({text: text})
        assert time.process_time() - started < 2 * MOST, ending
