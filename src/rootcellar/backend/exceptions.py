"""Turns a task's exception into plain data, in Celery's form, and back into an exception.

The stored data contain the name of a class, which anybody who can write to the store can choose. So reading them must
run no other code: the class must be in a module that is loaded or listed in the settings; finding it runs no code; it
must extend ``BaseException``, and raising it must not end a program; and the exception is created only from its
arguments. If this is not possible, a substitute class of the same name is created, with the same arguments.

Celery's form has the class and the arguments. Other details are stored under ``rootcellar``, which Celery's own readers
ignore: attributes, a text that the class makes itself, notes, the cause, and the exceptions of a group.
"""

from __future__ import annotations

import builtins
import importlib
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from celery.exceptions import Retry
from celery.utils.log import get_logger
from celery.utils.serialization import UnpickleableExceptionWrapper

from rootcellar.errors import RootcellarError
from rootcellar.payloads.redaction.redaction import MORE
from rootcellar.records import Payload
from rootcellar.support.interruptions import raise_interruption
from rootcellar.text.escaping import visible_logs

logger = visible_logs(get_logger(__name__))

#: limits for causes of causes and groups in groups, and for exceptions in a group
_MAX_DEPTH, _MAX_EXCEPTIONS = 8, 100
#: larger attributes and arguments of a constructor are left out
_MAX_VALUE_BYTES = 64 << 10
#: never created, because they would end the client's program or its generators
_REFUSED = (SystemExit, GeneratorExit)
#: Python 3.10 does not have it
_Group: Any = getattr(builtins, "BaseExceptionGroup", ())
_BACKPORT = ("exceptiongroup", "BaseExceptionGroup")
_PYDANTIC = ("pydantic_core._pydantic_core", "ValidationError")

Encode = Callable[[Any], Payload]


class TaskFailed(RootcellarError):
    """A failure that was stored without an exception, for example by ``update_state``. Not retryable."""


# -- into data


def describe(exc: BaseException, encode: Encode, depth: int = 0) -> dict[str, Any]:
    """Return ``exc`` in Celery's plain form. Arguments that ``encode`` refuses become their ``repr``."""
    name, module, args = type(exc).__qualname__, type(exc).__module__, exc.args
    if isinstance(exc, UnpickleableExceptionWrapper):
        # Celery's wrapper of an exception that cannot be pickled, if the exception itself is not available
        name, module, args = exc.exc_cls_name, exc.exc_module, exc.exc_args
        more: dict[str, Any] = {"is_partial": True}
    else:
        more = _more(exc, encode, depth)
    # a list, because typed JSON would mark a tuple, which Celery's own readers do not know
    described = {"exc_type": name, "exc_message": [_encodable(arg, encode) for arg in args], "exc_module": module}
    return {**described, MORE: more} if more else described


def as_raised(exc: BaseException) -> BaseException:
    """Return the exception that a task raised, if Celery passes a wrapper because it cannot be pickled."""
    handled = list(_being_handled())
    return next((raised for raised in handled if _stands_for(exc, raised)), None) or _by_name(exc, handled) or exc


def _being_handled() -> Iterator[BaseException]:
    """Yield the exception that is being handled, its causes and contexts."""
    exc = sys.exc_info()[1]
    for _ in range(_MAX_DEPTH):
        if exc is None:
            return
        yield exc
        exc = exc.__cause__ or exc.__context__


def _by_name(exc: BaseException, handled: Iterable[BaseException]) -> BaseException | None:
    """Return a wrapper with the name of the exception in ``retry(exc=…)``, which cannot be pickled.

    If the exception has a base class that can be pickled, the ``Retry`` contains one of that class instead.
    """
    shown = next((retry.excs for retry in handled if isinstance(retry, Retry) and retry.exc is exc), None)
    name = str(shown or "").partition("(")[0]
    if isinstance(exc, UnpickleableExceptionWrapper) or not name.isidentifier() or name == type(exc).__name__:
        return None
    wrapper: BaseException = UnpickleableExceptionWrapper(type(exc).__module__, name, exc.args, shown)
    return wrapper


def _stands_for(exc: BaseException, raised: BaseException) -> bool:
    if exc is raised:
        return False
    if isinstance(exc, UnpickleableExceptionWrapper):
        return (exc.exc_module, exc.exc_cls_name) == (type(raised).__module__, type(raised).__name__)
    # its nearest base class that can be pickled, with its arguments
    has_same_args = len(exc.args) == len(raised.args) and all(map(lambda a, b: a is b, exc.args, raised.args))
    return type(exc) in type(raised).__mro__[1:] and has_same_args


def _more(exc: BaseException, encode: Encode, depth: int) -> dict[str, Any]:
    """Return the details of an exception in addition to its class and arguments. For most exceptions there are none."""
    more: dict[str, Any] = {}
    texts = {str(place): _text(arg) for place, arg in enumerate(exc.args) if not _is_encodable(arg, encode)}
    if texts:
        more["texts"] = texts
    if _has_own_text(type(exc)) and (text := _text(exc, "")):
        more["text"] = text
    if (args := _constructor_args(exc, encode)) is not None:
        more["args"] = args
    if state := _state(exc, encode):
        more["state"] = state
    notes = getattr(exc, "__notes__", None)
    if isinstance(notes, list) and notes:
        more["notes"] = [note for note in notes if isinstance(note, str)]
    if depth < _MAX_DEPTH:
        if exc.__cause__ is not None and exc.__cause__ is not exc:
            more["cause"] = describe(exc.__cause__, encode, depth + 1)
        if members := _members(exc):
            more["exceptions"] = [describe(each, encode, depth + 1) for each in members[:_MAX_EXCEPTIONS]]
    return more


def _members(exc: Any) -> tuple[BaseException, ...]:
    """Return the exceptions of a group, also of the package exceptiongroup, which Python 3.10 has instead."""
    is_group = isinstance(exc, _Group) or any(
        (base.__module__.partition(".")[0], base.__name__) == _BACKPORT for base in type(exc).__mro__
    )
    members = exc.exceptions if is_group else ()
    return members if isinstance(members, tuple) else ()


def _has_own_text(cls: type[BaseException]) -> bool:
    """Return True if the text of an exception is, or may be, different from that of its arguments."""
    shown = cls.__str__ is not BaseException.__str__
    return shown and not (cls.__module__ == "builtins" and issubclass(cls, (KeyError, UnicodeError)))


def _constructor_args(exc: BaseException, encode: Encode) -> list[Any] | None:
    """Return the constructor's arguments if ``__reduce__`` names other ones than ``args``, else ``None``."""
    if (type(exc).__module__, type(exc).__name__) == _PYDANTIC:
        return _pydantic_args(exc, encode)
    if type(exc).__reduce__ is BaseException.__reduce__:
        return None
    try:
        reduced = exc.__reduce__()
    except Exception as failure:  # the exception's class may raise any exception
        raise_interruption(failure)
        return None
    match reduced:
        case (made_by, (*args,), *_) if made_by is type(exc) and tuple(args) != exc.args and _fits(args, encode):
            return args
    return None


def _pydantic_args(exc: Any, encode: Encode) -> list[Any] | None:
    """Return the title and the errors from which pydantic creates its error."""

    def read() -> list[Any]:
        wanted = ("type", "loc", "input", "ctx")
        return [exc.title, [{key: error[key] for key in wanted if key in error} for error in exc.errors()]]

    # another class may have the same name, and its method may run any code
    found: list[Any] | None = _result_or_none(read)
    return found if _fits(found, encode) else None


def _state(exc: BaseException, encode: Encode) -> dict[str, Any]:
    """Return the attributes of an exception that can be encoded."""
    attributes = exc.__dict__ if isinstance(exc.__dict__, dict) else {}
    state = {
        name: value
        for name, value in attributes.items()
        if isinstance(name, str) and not name.startswith("__") and _is_encodable(value, encode)
    }
    return state if _fits(state, encode) else {}


def _fits(value: Any, encode: Encode) -> bool:
    try:
        return len(encode(value).body) <= _MAX_VALUE_BYTES
    except Exception as exc:  # a value's own class may raise any exception
        raise_interruption(exc)
        return False


def _is_encodable(value: Any, encode: Encode) -> bool:
    try:
        encode(value)
    except Exception as exc:  # an argument's own class may raise any exception
        raise_interruption(exc)
        return False
    return True


def _encodable(value: Any, encode: Encode) -> Any:
    return value if _is_encodable(value, encode) else _shown(value)


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except Exception as exc:  # the value's class may raise any exception
        raise_interruption(exc)
        return f"<a {type(value).__name__} that cannot be shown>"


def _text(value: Any, otherwise: str | None = None) -> str:
    try:
        return str(value)
    except Exception as exc:  # the value's class may raise any exception
        raise_interruption(exc)
        return _shown(value) if otherwise is None else otherwise


# -- back into exceptions


class _Shown(str):
    """The ``repr`` of an argument that could not be stored. In messages it has the argument's text."""

    text: str

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return str.__str__(self)

    def __reduce__(self) -> Any:
        return _with_text, (str.__str__(self), self.text)


def _with_text(shown: str, text: str) -> _Shown:
    created = _Shown(shown)
    created.text = text
    return created


def restore(stored: Any, modules: Iterable[str] = (), depth: int = 0) -> Any:
    """Return the exception that :func:`describe` wrote, of its own class if possible; ``None`` for no data.

    Args:
        stored: the stored data.
        modules: modules and packages that may be imported to find a class; any other module must be loaded already.
        depth: how deep this exception is nested in others, as a cause or a member.
    """
    if not stored or isinstance(stored, BaseException):
        return stored or None
    if not isinstance(stored, Mapping) or "exc_type" not in stored:
        return TaskFailed(f"stored without an exception: {stored!r}")
    name, module = str(stored["exc_type"]), stored.get("exc_module")
    module = module if isinstance(module, str) and module else "celery.exceptions"
    message = stored.get("exc_message", ())
    args = tuple(message) if isinstance(message, (list, tuple)) else (message,)
    more = stored.get(MORE)
    more = more if isinstance(more, Mapping) else {}
    created: Any = _construct(_find_class(module, name, modules), name, module, _args(args, more), more, modules, depth)
    notes, cause = more.get("notes"), more.get("cause")
    if isinstance(notes, list):
        created.__notes__ = [note for note in notes if isinstance(note, str)]
    if isinstance(cause, Mapping) and depth < _MAX_DEPTH:
        created.__cause__ = restore(cause, modules, depth + 1)
    return created


def _args(args: tuple[Any, ...], more: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the arguments. One that was stored as its ``repr`` keeps its text."""
    texts = more.get("texts")
    if not isinstance(texts, Mapping):
        return args
    given = [(arg, texts.get(str(place))) for place, arg in enumerate(args)]
    both = [_with_text(arg, text) if isinstance(arg, str) and isinstance(text, str) else arg for arg, text in given]
    return tuple(both)


def _construct(
    cls: type[BaseException] | None,
    name: str,
    module: str,
    args: tuple[Any, ...],
    more: Mapping[str, Any],
    modules: Iterable[str],
    depth: int,
) -> BaseException:
    text = more.get("text")
    text = text if isinstance(text, str) else None
    if cls is None:
        # the name of the class would be lost otherwise
        called = f"{name}({', '.join(map(repr, args))})"
        return stand_in(name, module, Exception, args, called if text is None else f"{called}: {text}")
    for make in _constructors(cls, args, more, modules, depth):
        created: BaseException | None = _result_or_none(make)
        if created is not None:
            _set_state(created, more.get("state"))
            if _has_text(created, text):
                return created
    # its own class, or else its nearest usable base, with a text that does not depend on missing attributes
    shown = f"{name}({', '.join(map(repr, args))})" if text is None else text
    for base in cls.__mro__:
        if issubclass(base, BaseException):
            created = _result_or_none(partial(stand_in, name, module, base, args, shown))
            if created is not None:
                _set_state(created, more.get("state"))
                return created
    return stand_in(name, module, Exception, args, shown)


def _constructors(
    cls: Any, args: tuple[Any, ...], more: Mapping[str, Any], modules: Iterable[str], depth: int
) -> Iterator[Callable[[], Any]]:
    """Yield functions that try to create an exception of a class, the best first. A failed one returns ``None``."""
    own, parts = more.get("args"), more.get("exceptions")
    if isinstance(own, list):
        if (cls.__module__, cls.__name__) == _PYDANTIC:
            yield lambda: _pydantic(cls, own)
            return
        yield lambda: _with_same_args(cls(*own), args)
    if isinstance(_Group, type) and issubclass(cls, _Group):
        if isinstance(parts, list) and args and depth < _MAX_DEPTH:
            yield lambda: cls(args[0], [restore(part, modules, depth + 1) for part in parts])
        return
    # a partial form does not contain the constructor's arguments
    if not more.get("is_partial"):
        yield lambda: _with_same_args(cls(*args), args)
    # if the constructor keeps other arguments than it takes, create the exception without calling it
    is_sure = more.get("text") is not None or cls.__str__ is BaseException.__str__
    if is_sure:
        yield lambda: _create_without_init(cls, args)


def _with_same_args(created: BaseException, args: tuple[Any, ...]) -> BaseException | None:
    return created if created.args == args else None


def _create_without_init(cls: Any, args: tuple[Any, ...]) -> BaseException:
    created: BaseException = cls.__new__(cls, *args)
    created.args = args
    return created


def _pydantic(cls: Any, own: list[Any]) -> BaseException:
    title, errors = own
    created: BaseException = cls.from_exception_data(title, [{**error, "loc": tuple(error["loc"])} for error in errors])
    return created


def _result_or_none(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as exc:  # the class's own code may raise any exception
        raise_interruption(exc)
        return None


def _has_text(created: BaseException, text: str | None) -> bool:
    """Return True if an exception can be shown, and has the stored text."""
    try:
        shown = str(created)
        repr(created)
    except Exception as exc:  # the value's class may raise any exception, if its constructor did not run
        raise_interruption(exc)
        return False
    return text is None or shown == text


def _set_state(created: BaseException, state: Any) -> None:
    """Set an exception's attributes without running properties or ``__setattr__`` of its class."""
    if not isinstance(state, Mapping):
        return
    for name, value in state.items():
        if not isinstance(name, str) or name.startswith("__"):
            continue
        found = next((space[name] for base in _mro(type(created)) if name in (space := _namespace(base))), None)
        if isinstance(found, (types.MemberDescriptorType, types.GetSetDescriptorType)):
            continue
        if not isinstance(found, property):
            created.__dict__[name] = value


def stand_in(name: str, module: str, base: type[BaseException], args: tuple[Any, ...], text: str) -> BaseException:
    """Return a substitute for an exception whose class cannot be found or used.

    Args:
        name: the name of its class.
        module: the module of its class.
        base: the nearest available class.
        args: its arguments.
        text: its text (``str``).
    """
    names = {
        "__module__": module,
        "__doc__": "Stands for an exception whose class is not here.",
        "__str__": lambda self: text,
        "__reduce__": lambda self: (stand_in, (name, module, base, args, text)),
    }
    cls = type(_valid_class_name(name), (base,), names)
    return _create_without_init(cls, args)


def _valid_class_name(name: str) -> str:
    """Return a valid name for a class."""
    return name.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()


# -- classes


def _find_class(module: str, name: str, modules: Iterable[str]) -> type[BaseException] | None:
    """Return a class that may be created and raised, found without running code; ``None`` if there is none."""
    found: Any = _find_module(module, modules)
    for part in name.split("."):
        found = _namespace(found).get(part)
    if not issubclass(type(found), type) or BaseException not in _mro(found):
        return None
    return None if any(refused in _mro(found) for refused in _REFUSED) else found


def _find_module(name: str, modules: Iterable[str]) -> Any:
    """Return a module that is loaded, or import one of the allowed modules. Importing runs a module's code."""
    if name in sys.modules:
        return sys.modules[name]
    if not any(name == allowed or name.startswith(f"{allowed}.") for allowed in modules):
        return None
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as exc:  # the module's code may raise any exception
        raise_interruption(exc) if isinstance(exc, Exception) else None
        logger.warning("The module %s of result_type_modules cannot be imported: %r", name, exc)
        return None


def _namespace(holder: Any) -> Mapping[str, Any]:
    """Return the ``__dict__`` of a module or class, because access to its attributes could run code."""
    if issubclass(type(holder), types.ModuleType):
        found: Mapping[str, Any] = object.__getattribute__(holder, "__dict__")
        return found
    if issubclass(type(holder), type):
        found = type.__dict__["__dict__"].__get__(holder)
        return found
    return {}


def _mro(cls: type) -> tuple[type, ...]:
    found: tuple[type, ...] = type.__dict__["__mro__"].__get__(cls)
    return found
