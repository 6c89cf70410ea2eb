"""Reads the pickles that Celery before 5.7 stored in its tables, without running code.

A pickle is a program that calls functions by their names. This unpickler allows only the types of plain data, and the
exceptions of Python and Celery. It extends the one in Python, because the one in C reserves as much memory as a pickle
asks for.
"""

from __future__ import annotations

import builtins
import collections
import datetime
import decimal
import io
import pickle
import uuid
from typing import Any, ClassVar

import celery.exceptions

from rootcellar.errors import PayloadUnreadable, TypeRefused
from rootcellar.records import Payload
from rootcellar.support.interruptions import raise_interruption

PICKLE = "application/x-python-serialize"
_BUILTINS = ("builtins", "__builtin__", "exceptions")


class Named(Exception):
    """Stands for an object of a class or function that is not plain data: only its name and its arguments are read.

    Attributes:
        module, name: what the pickle names. They are attributes of a subclass, one for each name.
        args: the arguments.
    """

    module: ClassVar[str] = ""
    name: ClassVar[str] = ""

    def __new__(cls, *args: Any, **_: Any) -> Named:
        """Make the object without a check of the arguments."""
        made: Named = Exception.__new__(cls, *args)
        return made

    def __init__(self, *args: Any, **_: Any) -> None:
        super().__init__(*args)


def read_old_pickle(payload: Payload, *, names: bool = False) -> Any:
    """Return the value of a pickle of plain data.

    Args:
        payload: the pickle.
        names: whether an object that is not plain data becomes a :class:`Named`. Nothing of its class is run.

    Raises:
        TypeRefused: it names a class or function that is not plain data.
        PayloadUnreadable: it is damaged.
    """
    unpickler = _NamingUnpickler if names else _PlainUnpickler
    try:
        return unpickler(io.BytesIO(payload.body)).load()
    except TypeRefused:
        raise
    except Exception as exc:  # a damaged pickle can raise any exception
        raise_interruption(exc)
        raise PayloadUnreadable(
            f"a stored pickle cannot be decoded: {type(exc).__name__}: {str(exc)[:300]}",
            remedy="check whether it is damaged",
        ) from exc


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Encode a text: the form of bytes in old pickles."""
    if encoding != "latin1":
        raise ValueError("no encoding of bytes")
    return text.encode("latin1")


def _bytearray(data: Any = b"", encoding: str = "latin1") -> bytearray:
    """Return a bytearray of bytes or text. A number is refused, because it would reserve that much memory."""
    return bytearray(_encode(data, encoding) if isinstance(data, str) else bytes(memoryview(data)))


def _bytes(data: Any = ()) -> bytes:
    return bytes(data) if isinstance(data, (list, tuple)) else bytes(memoryview(data))


_PLAIN: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): _encode,
    # range is not allowed, because list(range(…)) could need more memory than there is
    **{
        (module, cls.__name__): cls
        for module in _BUILTINS
        for cls in (bool, int, float, complex, str, list, tuple, dict, set, frozenset)
    },
    **{(module, "bytearray"): _bytearray for module in _BUILTINS},
    **{(module, "bytes"): _bytes for module in _BUILTINS},
    **{
        ("datetime", cls.__name__): cls
        for cls in (datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone)
    },
    ("decimal", "Decimal"): decimal.Decimal,
    ("uuid", "UUID"): uuid.UUID,
    ("uuid", "SafeUUID"): uuid.SafeUUID,
    **{
        ("collections", cls.__name__): cls
        for cls in (collections.OrderedDict, collections.defaultdict, collections.deque, collections.Counter)
    },
}


_PurePython: Any = pickle._Unpickler


class _PlainUnpickler(_PurePython):  # type: ignore[misc]
    dispatch: ClassVar[dict[int, Any]] = dict(_PurePython.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _PLAIN:
            return _PLAIN[module, name]
        space = builtins if module in _BUILTINS else celery.exceptions if module == celery.exceptions.__name__ else None
        found = getattr(space, "__dict__", {}).get(name)
        if isinstance(found, type) and issubclass(found, Exception):
            return found
        raise TypeRefused(
            f"a pickle names {module[:50]}.{name[:50]}, which is not plain data",
            remedy="it was not run; if you trust it, read it with pickle in result_accept_content",
        )

    def load_build(self) -> None:
        """Set the attributes of an object, never those of a class."""
        if isinstance(self.stack[-2], type) or callable(self.stack[-2]):
            raise TypeRefused("a pickle changes a class", remedy="nothing was changed; somebody manipulated the pickle")
        _PurePython.load_build(self)

    dispatch[pickle.BUILD[0]] = load_build


class _NamingUnpickler(_PlainUnpickler):
    dispatch: ClassVar[dict[int, Any]] = dict(_PlainUnpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        try:
            return super().find_class(module, name)
        except TypeRefused:
            return type(Named.__name__, (Named,), {"module": module, "name": name})
