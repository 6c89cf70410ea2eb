"""Finds the messages of our errors in the source, for the tests that compare them with the entries.

A message is what an error class is called with. Three forms are understood: the call itself; a call of a function of
the same module that makes the error of its parameters; and tables of ``(…, errors.StoreUnavailable, "what to do")``, by
which a server's own words become an error of ours.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import rootcellar

#: stands for what is only known when it happens
UNKNOWN = "…"
#: a message that is the server's or the driver's own
SERVERS_OWN = ""
_ROOT = Path(rootcellar.__file__).parent
_BASE = "RootcellarError"


@dataclass(frozen=True, slots=True, order=True)
class Message:
    """One message.

    Attributes:
        error: the name of the error's class.
        what: its text; empty where it is the server's own.
        remedy: what it tells to do; may be empty.
    """

    error: str
    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class _Helper:
    """A function that makes an error: which, and which of its parameters are the text and the remedy."""

    error: str
    parameters: tuple[str, ...]
    what: ast.expr | None
    remedy: ast.expr | None


@cache
def all_messages() -> tuple[Message, ...]:
    """Return every message of every error class, each once, in order."""
    found: set[Message] = set()
    for path, tree in _modules().items():
        if "troubleshooting" not in path.parts:
            found.update(_Module(tree).messages())
    return tuple(sorted(found))


def error_docs() -> dict[str, tuple[str, bool]]:
    """Return the docstring of each error class, and whether it is worth retrying, in the order of the source."""
    names = _error_names()
    docs = {}
    for tree in _modules().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name in names and not node.name.startswith("_"):
                text = " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())
                docs[node.name] = (text, "Retryable" in text and "Not retryable" not in text)
    return docs


@cache
def _modules() -> Mapping[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(_ROOT.rglob("*.py"))}


@cache
def _error_names() -> frozenset[str]:
    """Return the names of all classes that extend the base of our errors."""
    classes = [node for tree in _modules().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    names = {_BASE}
    while more := {
        node.name for node in classes if node.name not in names and any(_name_of(base) in names for base in node.bases)
    }:
        names |= more
    return frozenset(names)


def _name_of(node: ast.AST) -> str:
    """Return the last name of ``errors.StoreError`` or ``StoreError``; empty for anything else."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


class _Module:
    """The messages of one module."""

    def __init__(self, tree: ast.Module) -> None:
        self._tree = tree
        self._constants = dict(self._named_texts())
        self._helpers = dict(self._find_helpers())

    def messages(self) -> Iterator[Message]:
        """Yield every message, perhaps twice."""
        keys = self._keys_of_rows()
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Call):
                yield from self._of_call(node)
            elif isinstance(node, ast.Tuple):
                yield from self._of_row(node, self.text_of(keys.get(id(node))))

    def _keys_of_rows(self) -> dict[int, ast.expr]:
        """Return the keys under which tuples stand in dicts, by the tuples' ids."""
        dicts = [node for node in ast.walk(self._tree) if isinstance(node, ast.Dict)]
        pairs = [pair for each in dicts for pair in zip(each.keys, each.values, strict=True)]
        return {id(value): key for key, value in pairs if key is not None and isinstance(value, ast.Tuple)}

    def text_of(self, node: ast.AST | None) -> str:
        """Return the text of an expression, with what is not known beforehand as ``…``."""
        match node:
            case None:
                return ""
            case ast.Constant(value=str() | int() as value):
                return str(value)
            case ast.JoinedStr(values=parts):
                return "".join(self.text_of(part) for part in parts)
            case ast.FormattedValue(value=ast.Name(id=name)) if name in self._constants:
                return self._constants[name]
            case ast.Name(id=name):
                return self._constants.get(name, UNKNOWN)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self.text_of(left) + self.text_of(right)
            case ast.IfExp(body=body, orelse=other):
                return " / ".join(filter(None, (self.text_of(body), self.text_of(other))))
            case _:
                return UNKNOWN

    def _named_texts(self) -> Iterator[tuple[str, str]]:
        for node in self._tree.body:
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str() | int() as value)):
                    yield name, str(value)

    def _find_helpers(self) -> Iterator[tuple[str, _Helper]]:
        for node in ast.walk(self._tree):
            if not isinstance(node, ast.FunctionDef):
                continue
            parameters = tuple(each.arg for each in (*node.args.args, *node.args.kwonlyargs))
            for call in (each for each in ast.walk(node) if isinstance(each, ast.Call)):
                if (error := _name_of(call.func)) in _error_names():
                    what, remedy = _what(call), _remedy(call)
                    if any(_name_of(part) in parameters for part in (what, remedy) if part is not None):
                        yield node.name, _Helper(error, parameters, what, remedy)

    def _of_call(self, call: ast.Call) -> Iterator[Message]:
        name = _name_of(call.func)
        if name in _error_names():
            what, remedy = _what(call), _remedy(call)
            helped = any(
                helper.what is what and helper.remedy is remedy and what is not None
                for helper in self._helpers.values()
            )
            if what is not None and not helped:
                yield from self._message(name, self.text_of(what), self.text_of(remedy))
        elif name in self._helpers:
            helper = self._helpers[name]
            given = dict(zip(helper.parameters, call.args, strict=False))
            given.update({keyword.arg: keyword.value for keyword in call.keywords if keyword.arg})
            texts = [self._filled(part, given) for part in (helper.what, helper.remedy)]
            yield from self._message(helper.error, *texts)

    def _filled(self, part: ast.expr | None, given: Mapping[str, ast.expr]) -> str:
        return self.text_of(given.get(_name_of(part), part) if part is not None else None)

    def _of_row(self, row: ast.Tuple, key: str) -> Iterator[Message]:
        """Yield the message of a row of a table: an error's class, and after it what to do."""
        for number, (error, remedy) in enumerate(zip(row.elts, row.elts[1:], strict=False)):
            advice = self.text_of(remedy)
            if _name_of(error) in _error_names() and " " in advice:
                words = [self.text_of(each) for each in row.elts[:number]]
                shown = " ".join(word for word in (key, *words) if word and word != UNKNOWN)
                yield Message(_name_of(error), shown, advice)

    def _message(self, error: str, what: str, remedy: str) -> Iterator[Message]:
        what, remedy = _tidy(what), _tidy(remedy)
        if what or remedy:
            yield Message(error, what or SERVERS_OWN, remedy)


def _tidy(text: str) -> str:
    """Return a text in one line; empty where nothing of it is known beforehand."""
    line = re.sub(f"{UNKNOWN}(?:: )?{UNKNOWN}", UNKNOWN, " ".join(text.split()))
    return line if line.strip(f"{UNKNOWN}/: ") else ""


def _what(call: ast.Call) -> ast.expr | None:
    return call.args[0] if call.args else None


def _remedy(call: ast.Call) -> ast.expr | None:
    return next((keyword.value for keyword in call.keywords if keyword.arg == "remedy"), None)
