"""Values of every type that typed JSON supports: classes of an application, and Hypothesis' strategies for them."""

from __future__ import annotations

import dataclasses
import enum
import math
import uuid
from datetime import datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from zoneinfo import ZoneInfo

import attrs
import numpy
import pydantic
from hypothesis import strategies as st

import rootcellar


class Colour(enum.Enum):
    RED = "red"
    CRATE = (1, 2)


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


class Rights(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


@dataclasses.dataclass(frozen=True)
class Customer:
    name: str
    colour: Colour = Colour.RED
    length: int = dataclasses.field(init=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", len(self.name))


@dataclasses.dataclass(slots=True, kw_only=True)
class Order:
    number: int
    customer: Any = None
    lines: Any = ()


@attrs.define
class Crate:
    content: Any
    _secret: int = 0


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)

    amount: Decimal
    inner: Any = pydantic.Field(default=None, alias="in")

    class Nested(pydantic.BaseModel):
        """Defined in another class."""

        model_config = pydantic.ConfigDict(extra="allow")
        when: Any


class Numbers(pydantic.RootModel[list[int]]):
    pass


class Money:
    """A class that only ``register_type`` can store."""

    def __init__(self, amount: Decimal, currency: str) -> None:
        self.amount, self.currency = amount, currency

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and (self.amount, self.currency) == (other.amount, other.currency)

    def __hash__(self) -> int:
        return hash((self.amount, self.currency))

    def __repr__(self) -> str:
        return f"Money({self.amount!r}, {self.currency!r})"


rootcellar.register_type(
    Money, "tests.money", lambda money: [money.amount, money.currency], lambda parts: Money(parts[0], parts[1])
)

ZONES = [ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York"), ZoneInfo("UTC"), timezone.utc]
ZONES += [timezone(timedelta(hours=-3, minutes=-30)), timezone(timedelta(seconds=7, microseconds=1))]

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["", "\x00", "__type__", "__value__", "__rootcellar__", "rootcellar.dict", "🧊", "\ud800", "NaN"]
)
_numbers = (
    st.integers()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([3, -4]).map(lambda base: base**1_001)
    | st.floats(allow_nan=False)
    | st.booleans()
)
plain = st.none() | _texts | _numbers


_moments = (
    st.datetimes(timezones=st.none() | st.sampled_from(ZONES))
    | st.times(timezones=st.none() | st.sampled_from(ZONES[2:]))
    | st.dates()
    | st.timedeltas()
)
_enums = st.sampled_from([*Colour, *Size, *Rights, Rights.READ | Rights.WRITE, Rights(0)])
#: values that can be keys and members of sets
hashable = (
    plain
    | _moments
    | _enums
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.binary(max_size=8)
    | st.complex_numbers(allow_nan=False)
    | st.builds(range, st.integers(-5, 5), st.integers(-5, 5), st.integers(1, 3))
    | st.sampled_from([Path("/tmp/x"), Path("a b"), PurePosixPath("/p"), PureWindowsPath("c:\\x")])
    | st.builds(Customer, name=_texts, colour=st.sampled_from(Colour))
    | st.builds(Money, st.decimals(allow_nan=False), _texts)
)
_scalars = st.one_of(
    *(
        st.sampled_from([cls(0), cls(1)])
        for cls in (numpy.bool_, numpy.int8, numpy.uint64, numpy.float16, numpy.float64, numpy.complex128)
    ),
    st.sampled_from(
        [numpy.str_("é"), numpy.str_(""), numpy.bytes_(b"x"), numpy.datetime64("2031-05-06T07:08:09", "us")]
    ),
    st.sampled_from([numpy.timedelta64(3, "h"), numpy.float32(0.1), numpy.float64(math.inf)]),
)
_ARRAYS = [
    numpy.arange(6).reshape(2, 3),
    numpy.array([[0.1, math.inf], [-math.inf, 1e300]], dtype=">f8"),
    numpy.zeros((0, 3), dtype="u2"),
    numpy.array(["a", "", "çd"]),
    numpy.array("x", dtype="U7"),
    numpy.array([b"\x00\xff", b""]),
    numpy.array(["2031-05-06", "NaT"], dtype="M8[D]")[:1],
    numpy.array([5, -5], dtype="m8[ms]"),
    numpy.array([1 + 2j], dtype="c8"),
    numpy.array([True, False]),
    numpy.array(7),
]


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(inner, max_size=3)
    return (
        lists
        | lists.map(tuple)
        | st.dictionaries(_texts, inner, max_size=3)
        | st.dictionaries(st.sampled_from(["__type__", "__value__", "__rootcellar__"]), inner, max_size=3)
        | st.dictionaries(hashable, inner, max_size=3)
        | st.sets(hashable, max_size=3)
        | st.frozensets(hashable, max_size=3)
        | st.builds(Order, number=st.integers(0, 9), customer=inner, lines=lists)
        | st.builds(Crate, inner, secret=st.integers(0, 9))
        | st.builds(lambda amount, value: Model(amount=amount, **{"in": value}), st.decimals(0, 9, places=2), inner)
        | st.builds(lambda when, value: Model.Nested(when=when, more=value), inner, inner)
        | st.builds(Numbers, st.lists(st.integers(), max_size=2))
    )


#: values that typed JSON returns unchanged
values = st.recursive(
    hashable | _scalars | st.sampled_from(_ARRAYS) | st.binary(max_size=8).map(bytearray), _containers, max_leaves=8
)
#: values that every JSON returns unchanged
json_values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4),
    max_leaves=10,
)
#: values that MessagePack and YAML return unchanged
common_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text("abcé 🧊", max_size=6) | st.binary(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=4),
    max_leaves=10,
)


def same(found: Any, value: Any) -> bool:
    """Return whether two values are equal and of the same types, at every level."""
    if type(found) is not type(value):
        return False
    if isinstance(value, numpy.ndarray):
        is_like = (found.dtype, found.shape) == (value.dtype, value.shape)
        return is_like and numpy.array_equal(found, value)
    if isinstance(value, (list, tuple)):
        return len(found) == len(value) and all(map(same, found, value))
    if isinstance(value, dict):
        return same(list(found.items()), list(value.items()))
    if isinstance(value, (set, frozenset)):
        return len(found) == len(value) and sorted(map(_typed, found)) == sorted(map(_typed, value))
    if isinstance(value, pydantic.BaseModel):
        extra = same(found.__pydantic_extra__, value.__pydantic_extra__)
        return extra and all(same(getattr(found, name), getattr(value, name)) for name in type(value).model_fields)
    if isinstance(value, (Order, Crate)):
        names = getattr(value, "__slots__", ())
        return all(same(getattr(found, name), getattr(value, name)) for name in names if name != "__weakref__")
    return bool(found == value) and _typed(found) == _typed(value)


def _typed(value: Any) -> str:
    if isinstance(value, (datetime, time)):
        # without the fold, which has no meaning unless a clock is turned back
        return f"{type(value)} {value.isoformat()} {value.tzinfo}"
    return f"{type(value)} {value!r}"


def uuid_of(number: int) -> uuid.UUID:
    """Return a UUID that is the same in every process."""
    return uuid.UUID(int=number)
