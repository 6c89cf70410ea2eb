"""NumPy's arrays and scalars. NumPy is imported only if a value or a stored marker needs it."""

from __future__ import annotations

import base64
import math
import re
import sys
from typing import Any

from rootcellar.payloads.typed.markers import VALUE, marker
from rootcellar.payloads.typed.unstorable import Unstorable

_DTYPE = re.compile(r"[<>|=]?([biufcmMSU])(\d{1,9})(\[\w{1,8}\])?")
#: numbers that JSON cannot represent are written as texts
_ODD = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
#: the size in bytes of the largest float that a JSON number represents exactly
_DOUBLE = 8


def is_numpy(cls: type) -> bool:
    """Return True if ``cls`` is NumPy's own array or scalar."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and (cls in (numpy.ndarray, numpy.memmap) or issubclass(cls, numpy.generic))


def write_numpy(value: Any) -> dict[str, Any]:
    """Return the marker of an array or a scalar: numbers as JSON numbers, in rows."""
    import numpy

    is_array = isinstance(value, numpy.ndarray)
    array = numpy.asarray(value)
    if not _DTYPE.fullmatch(array.dtype.str) or not array.dtype.itemsize:
        raise Unstorable(
            f"is a NumPy array of {array.dtype}, which JSON cannot hold",
            "return array.tolist(), or several plain arrays",
        )
    shape = {"shape": list(array.shape)} if is_array else {}
    written = marker("ndarray" if is_array else "numpy", _values(array))
    return {"__rootcellar__": written["__rootcellar__"], "dtype": array.dtype.str, **shape, VALUE: written[VALUE]}


def read_numpy(found: dict[str, Any]) -> Any:
    """Return the array or scalar of a marker."""
    import numpy

    kind = _DTYPE.fullmatch(found["dtype"])
    if kind is None:
        raise ValueError("not a dtype of numbers, times or texts")
    dtype = numpy.dtype(found["dtype"])
    shape = tuple(found.get("shape", ()))
    if not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError("not a shape")
    array = _array(found[VALUE], dtype, kind[1]).reshape(shape)
    return array if "shape" in found else array[()]


def _values(array: Any) -> Any:
    kind, itemsize = array.dtype.kind, array.dtype.itemsize
    if kind in "biu":
        return array.tolist()
    if kind == "f" and itemsize <= _DOUBLE:
        return _finite(array.tolist())
    if kind == "M":
        return array.astype(str).tolist()
    if kind == "m":
        return array.astype("i8").tolist()
    if kind == "U" and not array.shape and itemsize == _text_size(str(array)):
        return str(array)
    # complex numbers, long doubles and texts are written as bytes
    return base64.b64encode(array.tobytes()).decode()


def _array(values: Any, dtype: Any, kind: str) -> Any:
    import numpy

    if kind in "biu" or (kind == "f" and dtype.itemsize <= _DOUBLE):
        _check_numbers(values)
        return numpy.array(_numbers(values) if kind == "f" else values, dtype=dtype)
    if kind == "M":
        return numpy.array(values, dtype=dtype)
    if kind == "m":
        return numpy.array(values, dtype="i8").astype(dtype)
    if not isinstance(values, str):
        raise ValueError("not a text")
    # a longer text is base64, which never has this length
    if kind == "U" and dtype.itemsize == _text_size(values):
        return numpy.array(values, dtype=dtype)
    raw = base64.b64decode(values, validate=True)
    return numpy.frombuffer(raw, dtype=dtype).copy() if raw else numpy.empty(0, dtype=dtype)


def _text_size(text: str) -> int:
    """Return the bytes that NumPy uses for a text."""
    return 4 * max(len(text), 1)


def _check_numbers(values: Any) -> None:
    """Refuse values that NumPy would convert, such as a text of digits."""
    if isinstance(values, list):
        for value in values:
            _check_numbers(value)
    elif not isinstance(values, (bool, int, float)) and values not in _ODD:
        raise ValueError("not a number")


def _finite(values: Any) -> Any:
    if isinstance(values, list):
        return [_finite(value) for value in values]
    if math.isfinite(values):
        return values
    return "NaN" if math.isnan(values) else "Infinity" if values > 0 else "-Infinity"


def _numbers(values: Any) -> Any:
    if isinstance(values, list):
        return [_numbers(value) for value in values]
    return _ODD[values] if isinstance(values, str) else values
