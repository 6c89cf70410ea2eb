"""Typed JSON: Python's types come back; other values are refused with their place; a stored name calls nothing."""

from __future__ import annotations

import dataclasses
import enum
import json
import subprocess
import sys
from collections import OrderedDict, namedtuple
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from kombu.serialization import dumps, loads
from kombu.utils import json as kombu_json

import rootcellar
from rootcellar.errors import ConfigurationError, ContentRefused, PayloadError, PayloadUnreadable, TypeRefused
from rootcellar.payloads import ARGS, Codec, NotEncodable
from rootcellar.payloads.typed import Classes, Reader, decoder, readable
from rootcellar.payloads.typed.builtins import BUILT_IN
from rootcellar.payloads.typed.classes import KINDS
from rootcellar.records import TYPED_JSON, Payload
from tests import typed_values
from tests.typed_values import Crate, Customer, Model, Money, Order, json_values, same, values

CODEC = Codec(serializer="rootcellar-json", accept={TYPED_JSON})
quick = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck), max_examples=150)


def stored(value: Any, **options: Any) -> Payload:
    return CODEC.encode(value, task_id="a task", **options)


def read(text: str | bytes, codec: Codec = CODEC) -> Any:
    body = text.encode() if isinstance(text, str) else text
    return codec.decode(Payload(body, TYPED_JSON), task_id="a task")


def come_back(value: Any) -> Any:
    return CODEC.decode(stored(value), task_id="a task")


@quick
@given(values)
def test_value_of_every_type_comes_back(value: Any) -> None:
    payload = stored(value)
    assert same(CODEC.decode(payload, task_id="a task"), value)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    json.loads(payload.body, parse_constant=refuse)
    readable(payload.body.decode())


@quick
@given(json_values)
def test_json_value_is_stored_as_plain_json(value: Any) -> None:
    payload = stored(value)
    assert same(CODEC.decode(payload, task_id="a task"), value)
    if payload.content_type == "application/json":
        assert same(kombu_json.loads(payload.body), value), "Celery's own JSON can read it"
    else:
        assert b"__" in payload.body or b'"inf"' in payload.body or b'"-inf"' in payload.body


def test_plain_value_is_stored_as_stock_json() -> None:
    value = {"b": "🧊 é", "a": [1, 2.5, None, True, {}]}
    assert stored(value) == Codec(serializer="json").encode(value, task_id="a task")


def test_typed_json_is_readable_by_people_and_stock_clients() -> None:
    payload = stored({"total": Decimal("1.10"), "tags": {"b", "a"}, "customer": Customer("Ann")})
    assert json.loads(payload.body) == {
        "total": {"__type__": "decimal", "__value__": "1.10"},
        "tags": {"__rootcellar__": "set", "__value__": ["a", "b"]},
        "customer": {
            "__rootcellar__": "dataclass",
            "class": "tests.typed_values:Customer",
            "__value__": {
                "name": "Ann",
                "colour": {
                    "__rootcellar__": "enum",
                    "class": "tests.typed_values:Colour",
                    "name": "RED",
                    "__value__": "red",
                },
                "length": 3,
            },
        },
    }
    assert kombu_json.loads(payload.body)["total"] == Decimal("1.10")
    assert readable(payload.body.decode()) == {
        "total": "1.10",
        "tags": ["a", "b"],
        "customer": {"name": "Ann", "colour": "red", "length": 3},
    }


def test_kombu_knows_the_serializer() -> None:
    content_type, encoding, body = dumps({"when": Decimal(1), "t": (1,)}, serializer="rootcellar-json")
    assert (content_type, encoding) == (TYPED_JSON, "utf-8")
    assert loads(body, content_type, encoding, accept={TYPED_JSON}) == {"when": Decimal(1), "t": (1,)}
    program = "from kombu.serialization import registry; import sys; registry.name_to_type['rootcellar-json']; "
    program += "print([n for n in sys.modules if n.startswith('rootcellar.payloads.typed') or n == 'celery'])"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"


@pytest.mark.parametrize(
    "value",
    [
        {"__type__": "decimal", "__value__": "1"},
        {"__rootcellar__": "set", "__value__": [1]},
        {"__rootcellar__": "dataclass", "class": "x:y", "__value__": {}},
        [{"__rootcellar__": "dict", "__value__": [["a", {"__type__": "x", "__value__": Decimal(1)}]]}],
        {"__rootcellar__": None},
    ],
    ids=repr,
)
def test_dict_that_looks_like_a_marker_comes_back(value: Any) -> None:
    assert same(come_back(value), value)


def test_subclass_of_a_plain_type_comes_back_as_that_type() -> None:
    pair = namedtuple("pair", "a b")
    text = type("Text", (str,), {})
    assert same(come_back(OrderedDict(b=1, a=2)), {"b": 1, "a": 2})
    assert same(come_back([pair(1, text("x"))]), [(1, "x")])


def test_number_of_any_length_comes_back() -> None:
    assert come_back({"n": 10**6_000, "m": -(7**9_000)}) == {"n": 10**6_000, "m": -(7**9_000)}


def test_equal_sets_have_equal_payloads() -> None:
    assert stored({"c", "a", "b"}).body == stored({"b", "c", "a"}).body


class Customerless:
    """A class that rootcellar-json cannot store."""


@attrs.define
class Local:
    value: Any


@dataclasses.dataclass
class WithInitVar:
    kept: int
    given: dataclasses.InitVar[int]


def circle() -> Any:
    value: list[Any] = [Decimal(1)]
    value.append({"again": value})
    return value


def a_local_class() -> Any:
    @dataclasses.dataclass
    class Hidden:
        pass

    return Hidden()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            {"orders": [0, 1, 2, Order(number=1, customer=Customerless())]},
            'result["orders"][3].customer is a tests.payloads.test_typed.Customerless, which rootcellar-json does not',
        ),
        (object(), "result is a object, which"),
        (({1: [object()]},), "result[0][1][0] is a object"),
        ([{Customerless: 1}], "result[0]'s key is a type"),
        ({frozenset([Customerless()])}, "result{…}{…} is a "),
        ({"x": a_local_class()}, 'result["x"] is a tests.payloads.test_typed.a_local_class.<locals>.Hidden, which no'),
        ([WithInitVar(1, 2)], "result[0] is a tests.payloads.test_typed.WithInitVar, whose constructor takes other"),
        ([numpy.array([object()])], "result[0] is a NumPy array of object"),
        (Model.Nested(when=1, more=[Customerless]), "result.more[0] is a type"),
        ({"k" * 100: object}, 'result["kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk…"] is a type'),
        (circle(), "nested too deeply"),
        ((1 for _ in "a"), "result is a generator"),
    ],
    ids=[str(n) for n in range(12)],
)
def test_unencodable_value_is_named_with_its_place(value: Any, expected: str) -> None:
    with pytest.raises(NotEncodable) as caught:
        stored(value)
    assert expected in str(caught.value)
    assert "return " in caught.value.args[0] or "register_type" in caught.value.args[0] or caught.value.remedy


def test_place_of_a_value_begins_with_its_field() -> None:
    with pytest.raises(NotEncodable, match=r"args\[0\] is a object"):
        stored([object()], field=ARGS)


# -- an application's own types ----------------------------------------------------------------------------------------


def test_registered_type_and_its_subclass_come_back() -> None:
    class Cash(Money):
        pass

    assert same(come_back([Cash(Decimal(1), "EUR")]), [Money(Decimal(1), "EUR")])


@pytest.mark.parametrize("name", ["", "set", "enum", "1x", "a b", "tests.money"])
def test_invalid_name_of_a_type_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"rootcellar\.register_type"):
        rootcellar.register_type(Customerless, name, str, lambda text: Customerless())


def test_unregistered_type_is_named() -> None:
    with pytest.raises(PayloadUnreadable, match=r"of the type 'shop\.money', which is not registered here"):
        read('{"__rootcellar__": "shop.money", "__value__": 1}')


def test_type_registered_with_kombu_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_encoders", "_decoders"):
        monkeypatch.setattr(kombu_json, name, dict(getattr(kombu_json, name)))
    kombu_json.register_type(slice, "tests.slice", lambda it: [it.start, it.stop], lambda parts: slice(*parts))
    assert come_back({"part": slice(1, 2)}) == {"part": slice(1, 2)}


# -- rows of an attacker -----------------------------------------------------------------------------------------------


def of(kind: str, name: str, value: Any = None) -> str:
    return json.dumps({"__rootcellar__": kind, "class": name, "__value__": {} if value is None else value})


@pytest.mark.parametrize(
    "text",
    [
        of("dataclass", "os:system", {"command": "touch {}"}),
        of("dataclass", "subprocess:Popen", {"args": ["touch", "{}"]}),
        of("enum", "os:system", "touch {}"),
        of("attrs", "pathlib:Path", {}),
        of("pydantic", "pydantic:BaseModel", {}),
        of("dataclass", "tests.typed_values:Crate", {"content": 1}),
        of("enum", "tests.typed_values:Customer", "x"),
        of("dataclass", "tests.typed_values:Order.__init__", {}),
        of("dataclass", "tests.typed_values:dataclasses.dataclass", {}),
        of("dataclass", "tests.typed_values.Customer", {}),
        of("dataclass", ":", {}),
        of("dataclass", "", {}),
        '{"__rootcellar__": "dataclass", "class": ["os", "system"], "__value__": {}}',
        of("dataclass", "tests.typed_values:Customer", {"name": "x", "__class__": 1}),
        of("pydantic", "tests.typed_values:Model", {"amount": 1, "__init__": 2}),
    ],
)
def test_stored_name_of_another_class_is_not_called(text: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with pytest.raises(TypeRefused):
        read(text.replace("{}", str(trace)) if "touch" in text else text)
    assert not trace.exists()


def test_stored_name_imports_no_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = tmp_path / "trace"
    source = f"import dataclasses\nopen({str(trace)!r}, 'w')\n@dataclasses.dataclass\nclass Trap:\n    x: int = 1\n"
    (tmp_path / "trapped_module.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    text = of("dataclass", "trapped_module:Trap")
    with pytest.raises(TypeRefused, match="whose module is not loaded"):
        read(text)
    assert not trace.exists()
    others = Codec(reader=Reader(Classes(["tests"])), accept={TYPED_JSON})
    with pytest.raises(TypeRefused, match="whose module is not allowed"):
        read(text, others)
    assert not trace.exists()
    allowing = Codec(reader=Reader(Classes(["trapped_module"])), accept={TYPED_JSON})
    assert read(text, allowing).x == 1
    del sys.modules["trapped_module"]


def test_only_allowed_modules_are_used() -> None:
    text = stored(Customer("Ann")).body
    assert read(text, Codec(reader=Reader(Classes(["tests"])), accept={TYPED_JSON})) == Customer("Ann")
    for modules in (["test"], ["tests.typed"], []):
        with pytest.raises(TypeRefused, match="result_type_modules"):
            read(text, Codec(reader=Reader(Classes(modules)), accept={TYPED_JSON}))


@pytest.mark.parametrize(
    "text",
    [
        of("enum", "tests.typed_values:Colour", "green"),
        of("dataclass", "tests.typed_values:Customer", {}),
        of("attrs", "tests.typed_values:Crate", [1]),
        of("pydantic", "tests.typed_values:Model", {"amount": "much"}),
        '{"__rootcellar__": "enum"}',
        '{"__rootcellar__": ["set"], "__value__": 1}',
        '{"__rootcellar__": "set", "__value__": [[]]}',
        '{"__rootcellar__": "set", "__value__": "ab"}',
        '{"__rootcellar__": "dict", "__value__": ["ab"]}',
        '{"__rootcellar__": "set", "__value__": [], "more": 1}',
        '{"__rootcellar__": "range", "__value__": [0, 1, 0]}',
        '{"__rootcellar__": "int", "__value__": "9"}',
        '{"__rootcellar__": "datetime", "__value__": "2031-05-06T07:08:09[../../etc/passwd]"}',
        '{"__rootcellar__": "zone", "__value__": "../../etc/passwd"}',
        '{"__rootcellar__": "ndarray", "dtype": "O", "shape": [1], "__value__": [1]}',
        '{"__rootcellar__": "ndarray", "dtype": "<f8", "shape": [1000000000000], "__value__": [1]}',
        '{"__rootcellar__": "ndarray", "dtype": "<f8", "shape": [-1], "__value__": [1]}',
        '{"__rootcellar__": "ndarray", "dtype": "<U999999999", "shape": [1], "__value__": "QQ=="}',
        '{"__rootcellar__": "ndarray", "dtype": "|S999999999", "shape": [], "__value__": "QQ=="}',
        '{"__rootcellar__": "numpy", "dtype": "<i8", "__value__": "7"}',
        '{"__type__": "nonesuch", "__value__": 1}',
        '{"__type__": [], "__value__": 1}',
        '{"__type__": "decimal", "__value__": {"a": 1}}',
        '{"__type__": "uuid", "__value__": {"bytes": 1}}',
        '{"__type__": "base64", "__value__": "?"}',
        '{"__rootcellar__": "set", "__value__": ' + "[" * 50_000 + "]" * 50_000 + "}",
        '{"__rootcellar__": "tuple", "__value__": ' * 20_000 + "[]" + "}" * 20_000,
        '{"__rootcellar__": "int", "__value__": ' + "9" * 5_000 + "}",
        '{"__rootcellar__"',
        '["__rootcellar__", \x00]',
    ],
    ids=lambda text: text[:70].encode("ascii", "backslashreplace").decode(),
)
def test_damaged_marker_is_refused(text: str) -> None:
    with pytest.raises(PayloadError) as caught:
        read(text)
    assert len(str(caught.value)) < 1_000


def test_typed_json_must_be_accepted() -> None:
    payload = stored((1, 2))
    for accepted in (None, {"application/json"}, set()):
        with pytest.raises(ContentRefused, match="result_accept_content"):
            Codec(accept=accepted).decode(payload, task_id="a task")
    plain = stored([1, 2])
    assert CODEC.decode(plain, task_id="a task") == [1, 2], "a client that accepts typed JSON also accepts plain JSON"


def test_frozen_slotted_and_private_fields_come_back() -> None:
    order = Order(number=1, customer=Customer("é"), lines=(Crate({1}, secret=2),))
    assert same(come_back(order), order)
    assert come_back(order).lines[0]._secret == 2


def test_enum_is_read_by_name_after_its_value_changed() -> None:
    text = stored(typed_values.Size.LARGE).body.decode()
    assert isinstance(typed_values.Size.LARGE, enum.IntEnum)
    assert read(text.replace("2", "7")) is typed_values.Size.LARGE


def test_every_marker_that_is_read_is_reserved() -> None:
    assert {*decoder._SIMPLE, *decoder._WHOLE, *KINDS} == BUILT_IN
