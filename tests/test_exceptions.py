"""A task's exception becomes JSON and comes back: text, class, attributes; reading it calls nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest
from celery.exceptions import Retry
from celery.utils.serialization import UnpickleableExceptionWrapper, get_pickleable_exception
from kombu.utils.json import dumps, loads

from rootcellar.backend.exceptions import as_raised, describe, restore
from rootcellar.payloads import serialise
from rootcellar.payloads.redaction.per_task import Call, Redactor


class Attributes(Exception):
    """Sets attributes in its constructor, and shows them."""

    def __init__(self, message: str, *, code: int = 0, detail: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.args[0]} ({self.code})"


class KeywordsOnly(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__()
        self.code = code

    def __str__(self) -> str:
        return f"code {self.code}"


class Opaque(Exception):
    """Its text needs a value that cannot be stored."""

    def __init__(self, connection: Any) -> None:
        super().__init__()
        self.connection = connection

    def __str__(self) -> str:
        return f"lost {self.connection.name}"


class Reduced(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")
        self.one, self.two = one, two

    def __reduce__(self) -> Any:
        return Reduced, (self.one, self.two)


class Unpicklable(ValueError):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("foo")
        self.one, self.two = one, two


class UnpicklableToo(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("foo")
        self.one, self.two = one, two


class Silent(Exception):
    """Its ``__str__`` fails."""

    def __str__(self) -> str:
        raise AttributeError("nothing")


class OwnBase(BaseException):
    pass


class Said:
    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<Said {self.text}>"


class Model(pydantic.BaseModel):
    number: int
    names: list[str] = []


def pydantic_error() -> BaseException:
    try:
        Model(number="x", names=[1, "two", None])  # type: ignore[arg-type, list-item]
    except pydantic.ValidationError as exc:
        return exc
    raise AssertionError


def json_error() -> BaseException:
    try:
        json.loads("{'")
    except ValueError as exc:
        return exc
    raise AssertionError


def syntax_error() -> BaseException:
    try:
        compile("1 +", "file.py", "exec")
    except SyntaxError as exc:
        return exc
    raise AssertionError


EXCEPTIONS: dict[str, Callable[[], BaseException]] = {
    "plain": lambda: ValueError("oh", 7),
    "key": lambda: KeyError("k"),
    "attributes": lambda: Attributes("oh", code=7, detail={"a": [1]}),
    "keywords only": lambda: KeywordsOnly(code=4),
    "os": lambda: FileNotFoundError(2, "No such file", "cellar.txt"),
    "os, two files": lambda: OSError(18, "Cross-device link", "a", None, "b"),
    "unicode": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    "import": lambda: ImportError("no", name="shop", path="/x"),
    "json": json_error,
    "syntax": syntax_error,
    "reduced": lambda: Reduced(1, 2),
    "unpicklable": lambda: Unpicklable(1, 2),
    "an exception as the argument": lambda: ConnectionError(Attributes("inner", code=3)),
    "an object as the argument": lambda: ValueError(Said("what it said")),
    "objects as arguments": lambda: ValueError("text", Said("what it said")),
    "pydantic": pydantic_error,
    "cancelled": lambda: asyncio.CancelledError("why"),
    "interrupt": lambda: KeyboardInterrupt("why"),
    "own base": lambda: OwnBase("why", 1),
}


def encode(value: Any) -> Any:
    return serialise(value, "json")


def stored(exc: BaseException) -> Any:
    """Return the exception that comes back from the stored form."""
    return loads(dumps(describe(exc, encode)))


def back(exc: BaseException) -> Any:
    return restore(stored(exc))


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_exception_comes_back_with_its_class_and_text(name: str) -> None:
    exc = EXCEPTIONS[name]()
    found = back(exc)
    assert type(found) is type(exc)
    assert str(found) == str(exc)
    if name != "syntax":  # JSON makes a list of the tuple among its arguments
        assert repr(found) == repr(exc)


def test_attributes_of_an_exception_come_back() -> None:
    found = back(Attributes("oh", code=7, detail={"a": [1]}))
    assert (found.code, found.detail, found.args) == (7, {"a": [1]}, ("oh",))
    assert back(KeywordsOnly(code=4)).code == 4
    found = back(FileNotFoundError(2, "No such file", "cellar.txt"))
    assert (found.errno, found.strerror, found.filename) == (2, "No such file", "cellar.txt")
    assert (back(Reduced(1, 2)).one, back(Unpicklable(1, 2)).two) == (1, 2)
    assert back(json_error()).pos == 1
    assert [error["loc"] for error in back(pydantic_error()).errors()] == [("number",), ("names", 0), ("names", 2)]


def test_exception_with_an_unstorable_value_keeps_its_text() -> None:
    found = back(Opaque(types.SimpleNamespace(name="the connection")))
    assert isinstance(found, Opaque)
    assert (type(found).__name__, str(found)) == ("Opaque", "lost the connection")
    assert str(pickle.loads(pickle.dumps(found))) == "lost the connection"  # noqa: S301


def test_exception_without_a_text_comes_back() -> None:
    found = back(Silent("one"))
    assert isinstance(found, Silent)
    assert found.args == ("one",)
    assert str(found) == "Silent('one')"


@pytest.mark.parametrize("errors", [None, lambda: 1 / 0, lambda: 7, lambda: ["x"], lambda: [{"loc": Said("place")}]])
def test_exception_that_looks_like_pydantics_comes_back(errors: Any) -> None:
    cls = type("ValidationError", (Exception,), {"__module__": type(pydantic_error()).__module__})
    exc: Any = cls("oh", 7)
    exc.errors, exc.title = errors, "Model"
    described = describe(exc, encode)
    assert (described["exc_type"], described["exc_message"]) == ("ValidationError", ["oh", 7])
    assert type(restore(loads(dumps(described)))).__name__ == "ValidationError"


def test_stand_in_names_the_class_and_its_arguments() -> None:
    for module, text in (("no.such.module", None), ("no.such.module", "code 4")):
        row: dict[str, Any] = {"exc_type": "Shop.Broken", "exc_message": ["a", 4], "exc_module": module}
        found = restore({**row, "rootcellar": {"text": text}} if text else row)
        assert type(found).__name__ == "Shop.Broken"
        assert isinstance(found, Exception)
        assert found.args == ("a", 4)
        assert str(found) == "Shop.Broken('a', 4)" + (f": {text}" if text else "")


def test_wrapper_of_an_unpicklable_exception_is_shown() -> None:
    wrapper = get_pickleable_exception(UnpicklableToo(1, 2))
    assert isinstance(wrapper, UnpickleableExceptionWrapper)
    found = back(wrapper)
    assert isinstance(found, UnpicklableToo)
    assert found.args == ("foo",)
    # a class with its own text, which the wrapper cannot make
    found = back(get_pickleable_exception(KeywordsOnly(code=4)))
    assert isinstance(found, KeywordsOnly)
    assert str(found) == "KeywordsOnly()"


@pytest.mark.parametrize("kind", [Unpicklable, UnpicklableToo])
@pytest.mark.parametrize("is_retried", [False, True])
def test_exception_of_a_task_is_found_behind_celerys(kind: Any, is_retried: bool) -> None:
    raised = kind(1, 2)
    given = get_pickleable_exception(raised)
    assert given is not raised
    try:
        try:
            raise raised
        except kind as exc:
            if is_retried:
                raise Retry(exc=exc) from exc
            raise
    except Exception:
        assert as_raised(given) is raised
    assert as_raised(given) is given, "no exception is being handled"
    try:
        raise ValueError("another")
    except ValueError:
        assert as_raised(given) is given


def test_retry_of_an_unraised_exception_names_its_class() -> None:
    retry = Retry(exc=Unpicklable(1, 2))
    assert type(retry.exc) is ValueError
    try:
        raise retry
    except Retry:
        found = back(as_raised(retry.exc))
    assert (type(found).__name__, str(found), found.args) == ("Unpicklable", "Unpicklable('foo')", ("foo",))
    plain = Retry(exc=ValueError("foo"))
    try:
        raise plain
    except Retry:
        assert as_raised(plain.exc) is plain.exc


def test_causes_and_notes_of_an_exception_come_back() -> None:
    exc = Attributes("outer", code=1)
    exc.__cause__ = ValueError("middle")
    exc.__cause__.__cause__ = KeyError("inner")
    exc.__dict__["__notes__"] = ["a note", "another"]
    found = back(exc)
    assert found.__notes__ == ["a note", "another"]
    assert repr(found.__cause__) == "ValueError('middle')"
    assert repr(found.__cause__.__cause__) == "KeyError('inner')"
    exc.__cause__.__cause__.__cause__ = exc
    assert back(exc).__cause__.args == ("middle",), "a circle of causes ends"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no groups of exceptions")
def test_group_of_exceptions_comes_back() -> None:
    group = ExceptionGroup("both", [ValueError("one"), ExceptionGroup("inner", [Attributes("two", code=2)])])  # noqa: F821
    found = back(group)
    assert type(found) is type(group)
    assert (str(found), repr(found)) == (str(group), repr(group))
    assert str(found.exceptions[1].exceptions[0]) == "two (2)"
    base = BaseExceptionGroup("all", [OwnBase("one"), ValueError("two")])  # noqa: F821
    found = back(base)
    assert type(found) is BaseExceptionGroup  # noqa: F821
    assert [type(each) for each in found.exceptions] == [OwnBase, ValueError]


def test_plain_exception_is_stored_in_celerys_form() -> None:
    assert stored(ValueError("oh", 7)) == {
        "exc_type": "ValueError",
        "exc_message": ["oh", 7],
        "exc_module": "builtins",
    }
    form = stored(Attributes("oh", code=7))
    assert {name: form[name] for name in ("exc_type", "exc_message", "exc_module")} == {
        "exc_type": "Attributes",
        "exc_message": ["oh"],
        "exc_module": __name__,
    }


def test_large_attributes_are_left_out() -> None:
    exc = Attributes("oh", code=7, detail="x" * 1_000_000)
    assert len(dumps(stored(exc))) < 1_000
    assert str(back(exc)) == "oh (7)"


def test_secrets_of_an_exception_are_redacted() -> None:
    exc = Attributes("the key is hunter22hunter", code=7, detail={"password": "open-sesame"})
    exc.__cause__ = ValueError("hunter22hunter")
    exc.__dict__["__notes__"] = ["hunter22hunter"]
    task = types.SimpleNamespace(name="t", run=lambda password: None)
    call = Call(task, (), {"password": "hunter22hunter"})
    payload = Redactor().encoded(describe(exc, encode), call, encode, is_result=True, is_failure=True)
    assert b"hunter22" not in payload.body
    assert b"sesame" not in payload.body
    found = restore(loads(payload.body.decode()))
    assert str(found) == "the key is *** (7)"
    assert isinstance(found, Attributes)


# -- reading calls nothing--------------------------------------------------------------------------------------------


def row(module: Any, name: Any, *args: Any) -> dict[str, Any]:
    return {"exc_type": name, "exc_message": list(args), "exc_module": module}


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path with a loaded package, and with modules that must not be imported."""
    package = tmp_path / "cellar_loaded"
    package.mkdir()
    (package / "__init__.py").write_text("class Here(Exception): pass\n")
    leaves_mark = "import pathlib; pathlib.Path(__file__ + '.ran').touch()\n"
    (package / "errors.py").write_text(leaves_mark + "class There(Exception): pass\n")
    (package / "exits.py").write_text(leaves_mark + "raise SystemExit(3)\n")
    (package / "raises.py").write_text(leaves_mark + "raise RuntimeError('at import')\n")
    (tmp_path / "cellar_script.py").write_text(leaves_mark + "class There(Exception): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("cellar_loaded")
    known = set(sys.modules)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("cellar_") and name not in known]:
        del sys.modules[name]
    sys.modules.pop("cellar_loaded", None)


MODULES = ["cellar_loaded.errors", "cellar_loaded.exits", "cellar_loaded.raises", "cellar_script", "unittest.__main__"]


@pytest.mark.parametrize("module", MODULES)
def test_unloaded_module_is_not_imported(modules: Path, module: str) -> None:
    found = restore(row(module, "There", "x"))
    assert (type(found).__name__, found.args) == ("There", ("x",))
    assert module not in sys.modules
    assert list(modules.rglob("*.ran")) == []


def test_listed_module_is_imported(modules: Path) -> None:
    found = restore(row("cellar_loaded.errors", "There", "x"), ["cellar_loaded"])
    assert type(found) is sys.modules["cellar_loaded.errors"].There
    assert type(restore(row("cellar_script", "There", "x"), ["cellar"])).__module__ == "cellar_script"
    assert "cellar_script" not in sys.modules, "a part of a name is not a package"


@pytest.mark.parametrize("module", ["cellar_loaded.exits", "cellar_loaded.raises", "cellar_loaded.missing"])
def test_listed_module_that_cannot_be_imported_is_logged(
    modules: Path, module: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = restore(row(module, "There", "x"), ["cellar_loaded"])
    assert (type(found).__name__, found.args) == ("There", ("x",))
    assert f"{module} of result_type_modules cannot be imported" in caplog.text


@pytest.mark.parametrize("name", ["SystemExit", "GeneratorExit"])
def test_exception_that_would_end_a_program_has_a_stand_in(name: str) -> None:
    found = restore(row("builtins", name, 3))
    assert isinstance(found, Exception)
    assert (type(found).__name__, found.args, str(found)) == (name, (3,), f"{name}(3)")


@pytest.mark.parametrize("name", ["A\x00b", "\ud800", "", "a.b", "__class__", "1"])
def test_any_class_name_can_be_read(name: str) -> None:
    for module in ("builtins", "no.such", "", None, 5, "a\x00b", "\ud800"):
        found = restore(row(module, name, "x"))
        assert isinstance(found, Exception)
        assert found.args == ("x",)
        str(found), repr(found)


def test_search_for_a_class_calls_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    class Lazy(types.ModuleType):
        def __getattribute__(self, name: str) -> Any:
            ran.append(name)
            return super().__getattribute__(name)

    class Meta(type):
        def __getattribute__(cls, name: str) -> Any:
            ran.append(name)
            return super().__getattribute__(name)

        def __instancecheck__(cls, instance: Any) -> bool:
            ran.append("__instancecheck__")
            return True

    class Pretends:
        @property
        def __class__(self) -> Any:  # type: ignore[override]
            ran.append("__class__")
            return type

    module = Lazy("cellar_lazy")
    holder = Meta("Holder", (), {"Inner": ValueError, "pretends": Pretends()})
    types.ModuleType.__getattribute__(module, "__dict__").update(Holder=holder, Pretends=Pretends())
    monkeypatch.setitem(sys.modules, "cellar_lazy", module)
    ran.clear()
    for name in ("Holder.Inner", "Holder.missing", "Holder.pretends", "Pretends", "missing", "Pretends.x"):
        found = restore(row("cellar_lazy", name, "x"))
        assert found.args == ("x",)
    assert ran == []


def test_stored_attributes_call_no_property() -> None:
    ran: list[Any] = []

    class Guarded(Exception):
        @property
        def code(self) -> int:
            return 1

        @code.setter
        def code(self, value: int) -> None:
            ran.append(value)

    globals()["Guarded"] = Guarded
    Guarded.__qualname__ = "Guarded"
    state = {"code": 5, "__class__": 6, "args": 7, "free": 8}
    found = restore({**row(__name__, "Guarded", "x"), "rootcellar": {"state": state}})
    assert (type(found), found.args, found.free, ran) == (Guarded, ("x",), 8, [])


@pytest.mark.parametrize(
    "more",
    [
        *(None, 5, [], "x", {"args": 5}, {"args": {}}, {"text": 5}, {"texts": [1]}, {"state": [1]}, {"notes": "x"}),
        *({"cause": 5}, {"exceptions": 5}, {"notes": [5]}, {"texts": {"0": 5}}, {"cause": {}}, {"is_partial": "?"}),
    ],
)
@pytest.mark.parametrize("name", ["ValueError", "OSError", "ExceptionGroup", "Missing"])
def test_damaged_row_is_read_as_an_exception(name: str, more: Any) -> None:
    found = restore({**row("builtins", name, "x"), "rootcellar": more})
    assert isinstance(found, Exception)
    assert type(found).__name__ == name


def test_endless_causes_are_cut() -> None:
    deep: Any = row("builtins", "ValueError", "x")
    for _ in range(300):
        deep = {**row("builtins", "ValueError", "x"), "rootcellar": {"cause": deep, "exceptions": [deep]}}
    depth, found = 0, restore(deep)
    while found is not None:
        depth, found = depth + 1, found.__cause__
    assert depth < 20
