"""Secrets are masked before they are stored: by names and paths, in arguments, results, exceptions and tracebacks."""

from __future__ import annotations

import logging
import re
from collections import OrderedDict, namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
from celery import Celery
from celery.app.task import Context

from rootcellar.errors import ConfigurationError
from rootcellar.payloads import ARGS, CHORD_BODY, KWARGS, RESULT, STAMPS, Call, Codec, NotEncodable, codec_of
from rootcellar.payloads.redaction.cards import MASK
from rootcellar.payloads.redaction.patterns import DEFAULTS, NOTHING, STANDARD, Patterns, read_patterns
from rootcellar.payloads.redaction.per_task import Redactor
from rootcellar.payloads.redaction.redaction import Redaction

SECRET = "s3cr3t-0f-m1ne"


def redacted(value: Any, *patterns: str) -> Any:
    return Redaction(patterns or DEFAULTS).value(value)


@dataclass(frozen=True)
class Login:
    user: str
    password: str


Pair = namedtuple("Pair", "name token")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"password": SECRET, "user": "a"}, {"password": MASK, "user": "a"}),
        ({"Password": SECRET, "PASSWORD": 1, "pass-word": 2}, {"Password": MASK, "PASSWORD": MASK, "pass-word": MASK}),
        ({"apiKey": SECRET, "api_key": SECRET, "API-KEY": SECRET}, {"apiKey": MASK, "api_key": MASK, "API-KEY": MASK}),
        ({"db_password": SECRET, "client_secret": SECRET}, {"db_password": MASK, "client_secret": MASK}),
        ([{"a": ({"token": SECRET},)}], [{"a": ({"token": MASK},)}]),
        ({"token": {"a": [1]}, "cvv": 123}, {"token": MASK, "cvv": MASK}),
        ({"token": None, "password": True, "secret": ""}, {"token": None, "password": True, "secret": ""}),
        ({"card": {"number": 4111, "year": 2031}, "number": 7}, {"card": {"number": MASK, "year": 2031}, "number": 7}),
        ({"cards": [{"number": 1}], "card": [{"number": 1}]}, {"cards": [{"number": 1}], "card": [{"number": MASK}]}),
        ({"tokens": 5, "class_name": "x", "passwordless": "y"}, {"tokens": 5, "class_name": "x", "passwordless": "y"}),
        (Login("a", SECRET), Login("a", MASK)),
        ([Pair("a", SECRET)], [Pair("a", MASK)]),
        (OrderedDict(token=SECRET, a=1), OrderedDict(token=MASK, a=1)),
        ({1: {"token": SECRET}, b"token": SECRET, ("a",): 1}, {1: {"token": MASK}, b"token": MASK, ("a",): 1}),
        (SECRET, SECRET),
        ([], []),
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_defaults_mask_secrets_by_name(value: Any, expected: Any) -> None:
    before = repr(value)
    found = redacted(value)
    assert found == expected
    assert type(found) is type(expected)
    assert repr(value) == before, "the task's own value is unchanged"


def test_value_without_secrets_is_not_copied() -> None:
    value = {"a": [{"b": (1, 2)}]}
    assert redacted(value) is value
    circle: list[Any] = [1]
    circle.append(circle)
    assert redacted(circle) is circle
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    assert redacted(deep) is deep


@pytest.mark.parametrize(
    ("pattern", "value", "expected"),
    [
        ("a.b", {"a": {"b": 1, "c": {"a": {"b": 2}}}, "b": 3}, {"a": {"b": MASK, "c": {"a": {"b": MASK}}}, "b": 3}),
        ("a.b.c", [{"a": {"b": {"c": 1, "d": 2}}, "b": {"c": 3}}], [{"a": {"b": {"c": MASK, "d": 2}}, "b": {"c": 3}}]),
        ("$.pin", {"pin": 1, "a": {"pin": 2}}, {"pin": MASK, "a": {"pin": 2}}),
        ("$.a.pin", {"a": {"pin": 2, "a": {"pin": 3}}}, {"a": {"pin": MASK, "a": {"pin": 3}}}),
        ("bank*", {"bank_account": 1, "bank": 2, "a_bank": 3}, {"bank_account": MASK, "bank": MASK, "a_bank": 3}),
        ("a.*", {"a": {"x": 1, "y": {"z": 2}}, "b": 3}, {"a": {"x": MASK, "y": MASK}, "b": 3}),
        ("*pin*", {"my_pin_code": 1, "spine": 2}, {"my_pin_code": MASK, "spine": MASK}),
        ("größe", {"Größe": 1}, {"Größe": MASK}),
    ],
)  # fmt: skip
def test_pattern_masks_matching_paths(pattern: str, value: Any, expected: Any) -> None:
    assert redacted(value, pattern) == expected


def test_shared_value_is_masked_only_at_matching_paths() -> None:
    shared = {"number": 1}
    assert redacted({"house": shared, "card": shared}) == {"house": {"number": 1}, "card": {"number": MASK}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"login(user, password={SECRET})", f"login(user, password={MASK})"),
        (f'{{"token": "{SECRET}", "a": 1}}', f'{{"token": {MASK}, "a": 1}}'),
        (f"Authorization: Bearer {SECRET}\nnext", f"Authorization: Bearer {MASK}\nnext"),
        (f"postgresql://me:{SECRET}@host/db is down", "postgresql://me:**@host/db is down"),
        (f"DB_PASSWORD = '{SECRET} with space'", f"DB_PASSWORD = {MASK}"),
        (f"api-key: {SECRET}; x", f"api-key: {MASK}; x"),
        (f"db-password={SECRET}", f"db-password={MASK}"),
        (f"password => {SECRET}, x", f"password => {MASK}, x"),
        (f"password := {SECRET}", f"password := {MASK}"),
        (f"password=b'{SECRET}'", f"password={MASK}"),
        (f"token=Secret('{SECRET}')", f"token={MASK})"),
        (rf'{{"password": "a\"{SECRET}"}}', f'{{"password": {MASK}}}'),
        (rf"x = {{\"password\": \"{SECRET}\"}}", rf"x = {{\"password\": {MASK}}}"),
        (f"password='{SECRET} and more\nnext line", f"password={MASK}\nnext line"),
        (f"token=['{SECRET}', 1], a=1", f"token={MASK}, a=1"),
        ("größe, tokens=5, mytoken=x, TOKEN=y", f"größe, tokens=5, mytoken=x, TOKEN={MASK}"),
        ("the password is wrong", "the password is wrong"),
        ("if password == other:", "if password == other:"),
    ],
)
def test_text_is_masked_after_secret_names(text: str, expected: str) -> None:
    assert Redaction(DEFAULTS).text(text) == expected


def test_settings_choose_patterns_for_calls_and_results() -> None:
    assert read_patterns(None, "x") == STANDARD == Patterns(DEFAULTS, ())
    assert read_patterns("pin, card.cvc", "x") == Patterns((*DEFAULTS, "pin", "card.cvc"), ("pin", "card.cvc"))
    assert read_patterns("-Token", "x").results == ("-Token",)
    assert "token" not in read_patterns("-Token", "x").calls
    for on in (True, "on", "true", ["on"]):
        assert read_patterns(on, "x") == Patterns(DEFAULTS, DEFAULTS)
    assert read_patterns("on, pin, -token", "x").results[-2:] == ("pin", "-token")
    for off in (False, "off", "false"):
        assert read_patterns(off, "x") == NOTHING
    assert read_patterns(True, "x", NOTHING) == Patterns(DEFAULTS, DEFAULTS)
    assert read_patterns(["-pin"], "x", Patterns(("pin", "a"), ("pin",))) == Patterns(("a", "-pin"), ("-pin",))
    assert read_patterns("pin", "x", Patterns(("a", "-PIN"))).calls == ("a", "pin"), "the last pattern wins"
    for wrong in ("a b$", "a..b", "§", "$.", [3], "@cards"):
        with pytest.raises(ConfigurationError, match="is not a pattern"):
            read_patterns(wrong, "somewhere")


# -- through a codec


def task(run: Any, **attributes: Any) -> Call:
    return Call(SimpleNamespace(run=run, name=run.__name__, **attributes))


def stored(value: Any, field: str = KWARGS, call: Call | None = None, serializer: str = "json", **more: Any) -> Any:
    accept = ["application/json", "application/x-msgpack", "application/x-yaml", "application/x-python-serialize"]
    codec = Codec(redactor=Redactor(), serializer=serializer, accept=accept)
    payload = codec.encode(value, task_id="a", field=field, call=call or Call(), **more)
    return codec.decode(payload, task_id="a", field=field)


@pytest.mark.parametrize("serializer", ["json", "msgpack", "yaml", "pickle"])
def test_secrets_are_masked_with_every_serializer(serializer: str) -> None:
    assert stored({"a": [{"access_token": SECRET}]}, serializer=serializer) == {"a": [{"access_token": MASK}]}
    assert stored({"card": {"number": 1}}, serializer=serializer) == {"card": {"number": MASK}}


def test_quick_search_finds_every_secret() -> None:
    redaction = Redaction(DEFAULTS)
    for pattern in set(DEFAULTS) - {"@card"}:
        for name in (pattern.replace("*", ""), pattern.replace("*", "x").upper(), pattern.replace("_", "-")):
            value: Any = SECRET
            for part in reversed(name.replace("*", "my").split(".")):
                value = {part: value}
            assert redaction.value(value) != value
            for serializer in ("json", "msgpack", "yaml", "pickle"):
                assert redaction.may_match(Codec(serializer=serializer).encode(value, task_id="a")), (name, serializer)


def login(user: str, password: str, /, *more: Any, pin: int = 0) -> None: ...


def test_positional_arguments_are_masked_by_name() -> None:
    assert stored(["me", SECRET, {"token": SECRET}, 1], ARGS, task(login)) == ["me", MASK, {"token": MASK}, 1]
    assert stored(("me",), ARGS, task(login)) == ["me"]
    assert stored({"pin": 1234, "password": SECRET}, KWARGS, task(login, result_redact=["pin"])) == {
        "pin": MASK,
        "password": MASK,
    }
    assert stored([SECRET], ARGS, task(print)) == [SECRET], "the names of these arguments are unknown"


def test_body_of_a_chord_is_not_masked() -> None:
    assert stored({"kwargs": {"password": SECRET}}, CHORD_BODY) == {"kwargs": {"password": SECRET}}


def test_task_has_its_own_patterns() -> None:
    value = {"token": "t", "password": "p", "pin": 1}
    own = task(login, result_redact=["-token", "pin"])
    assert stored(value, KWARGS, own) == {**value, "password": MASK, "pin": MASK}
    assert stored(value, RESULT, own) == {**value, "pin": MASK}, "a result is masked only as configured"
    assert stored(value, RESULT, task(login, result_redact=True)) == {**value, "token": MASK, "password": MASK}
    for field in (KWARGS, RESULT):
        assert stored(value, field, task(login, result_redact=False)) == value
    with pytest.raises(ConfigurationError, match="result_redact of task login"):
        stored(value, call=task(login, result_redact=["a b"]))


RETURNED = [
    {"token": SECRET, "nested": [{"password": SECRET}]},
    {"card": "4111 1111 1111 1111"},
    "password=x",
    4111111111111111,
    Pair("a", SECRET),
    {"exc_type": "ValueError", "exc_message": ["password=x"], "exc_module": "builtins"},
]


@pytest.mark.parametrize("value", RETURNED, ids=repr)
def test_result_is_stored_as_it_was_returned(value: Any) -> None:
    expected = list(value) if isinstance(value, Pair) else value
    assert stored(value, RESULT) == expected


CARDS = [
    "4111 1111 1111 1111",
    "4111-1111-1111-1111",
    "4111111111111111",
    "5500 0055 5555 5559",
    "2223003122003222",
    "3782 822463 10005",
    "378282246310005",
    "30569309025904",
    "6011-0009-9013-9424",
    "3530 1113 3330 0000",
    "4222222222222",
]
NO_CARDS = [
    "4111 1111 1111 1112",
    "411111111111111",
    "1790000000000000003",
    "12345678-4111-1111-1111-111111111111",
    "a4111111111111111",
    "0.4111111111111111",
    "4111111111111111.25",
    "4111  1111 1111 1111",
    "94111111111111111",
]


@pytest.mark.parametrize("number", CARDS)
@pytest.mark.parametrize("serializer", ["json", "rootcellar-json", "msgpack", "yaml", "pickle"])
def test_number_of_a_card_in_arguments_is_masked_under_any_key(number: str, serializer: str) -> None:
    digits = int("".join(filter(str.isdigit, number)))
    value = {"card": number, "n": [digits, {"x": f"pay with {number}, please"}], number: 1}
    for field in (KWARGS, STAMPS):
        assert stored(value, field, serializer=serializer) == {
            "card": MASK,
            "n": [MASK, {"x": f"pay with {MASK}, please"}],
            MASK: 1,
        }
    assert stored([number, digits], ARGS, serializer=serializer) == [MASK, MASK]
    assert stored([number], ARGS, task(login, result_redact=["-@card"]), serializer) == [number]
    assert stored([number], RESULT, task(login, result_redact=["@card"]), serializer) == [MASK]


@pytest.mark.parametrize("number", NO_CARDS)
def test_numbers_that_are_no_cards_stay(number: str) -> None:
    assert stored({"order": number, "all": [number]}) == {"order": number, "all": [number]}


@pytest.mark.parametrize("number", CARDS)
def test_number_of_a_card_in_a_text_is_masked(number: str) -> None:
    text = f"ValueError: {number} was refused ('{number}', {number} 12/31)"
    assert Redaction(DEFAULTS).text(text) == "ValueError: *** was refused ('***', *** 12/31)"


def test_excluded_names_are_not_masked() -> None:
    value = {"db_password": "x", "password": "y", "card": {"number": 1}, "house": {"number": 2}}
    redaction = Redaction([*DEFAULTS, "-db_password", "-card.number"])
    assert redaction.value(value) == {**value, "password": MASK}
    assert redaction.text("db_password=x, password=y") == f"db_password=x, password={MASK}"
    assert Redaction(["*", "-$.a"]).value({"a": 1, "b": {"a": 2}}) == {"a": 1, "b": MASK}


class Odd(list):  # type: ignore[type-arg]
    def __init__(self, one: int, other: int) -> None:
        super().__init__([one, other])


class Uncopied(dict):  # type: ignore[type-arg]
    def __copy__(self) -> Any:
        raise RuntimeError("there is one of me")


def test_unusual_classes_are_masked_or_refused() -> None:
    assert redacted([Odd(1, 2), {"token": 1}]) == [[1, 2], {"token": MASK}]
    with pytest.raises(NotEncodable, match="cannot be redacted"):
        stored(Uncopied(token=SECRET))
    found = redacted({"token": numpy.arange(3), "a": numpy.arange(3), "password": [numpy.arange(2)]})
    assert (found["token"], found["password"]) == (MASK, MASK)


def test_unencodable_value_is_shown_without_secrets() -> None:
    codec = Codec(redactor=Redactor())
    call = Call(task(login).task, ("me", SECRET), {"other": object()})
    for field, value in ((ARGS, ["me", SECRET, object()]), (KWARGS, {"password": SECRET, "x": object()})):
        payload = codec.encode_loosely(value, task_id="a", field=field, call=call)
        assert SECRET.encode() not in payload.body
        assert b"object object" in payload.body


def test_secret_in_a_circular_value_is_refused() -> None:
    value: dict[str, Any] = {"token": SECRET}
    value["me"] = value
    with pytest.raises(NotEncodable):
        stored(value)


def test_masked_result_is_logged_once_for_each_task(caplog: pytest.LogCaptureFixture) -> None:
    codec = Codec(redactor=Redactor())
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            codec.encode({"token": SECRET}, task_id="a", call=task(login, result_redact=["token"]))
        codec.encode({"token": SECRET}, task_id="a", field=KWARGS, call=task(print))
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert "The result of task login contains token, which is stored as '***'" in message
    assert '@app.task(result_redact=["-token"])' in message
    assert SECRET not in message


# -- through an app


@pytest.fixture
def app(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    monkeypatch.setenv("ROOTCELLAR_REDACT", "pin,$.iban,-cvv")
    app = Celery(
        "test", set_as_current=False, broker="memory://", backend=f"rootcellar+sqlite:///{tmp_path}/results.db"
    )
    app.conf.result_extended = True

    @app.task(name="login")
    def login(user: str, password: str, **more: Any) -> None: ...

    yield app
    app.backend.store.close()


def test_failure_has_no_secret_of_its_call(app: Celery, tmp_path: Any) -> None:
    request = Context(id="a", task="login", args=["me", SECRET], kwargs={"api_key": SECRET + "2", "pin": 55_555})
    try:
        raise ValueError(f"no such user: {SECRET}, {SECRET}2 or 55555", {"token": "other-token"}, 7, 55_555)
    except ValueError as exc:
        app.backend.store_result(
            "a", exc, "FAILURE", traceback=f'  login(x)\nValueError: {SECRET} "55555"', request=request
        )
    found = app.AsyncResult("a")
    assert found.result.args == ("no such user: ***, *** or ***", {"token": MASK}, 7, MASK)
    assert found.traceback == '  login(x)\nValueError: *** "***"'
    assert (found.args, found.kwargs) == (["me", MASK], {"api_key": MASK, "pin": MASK})
    assert request.args == ["me", SECRET], "the task's own arguments are unchanged"
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert not re.search(rb"s3cr3t|other-token|55555", kept)


def test_result_is_masked_only_as_configured(app: Celery) -> None:
    app.backend.store_result("a", {"iban": "x", "more": {"iban": "y"}}, "SUCCESS")
    app.backend.store_result("b", {"password": SECRET, "pin": 4}, "PROGRESS")
    app.backend.store_result("c", {"pin": 4, "password": SECRET}, "FAILURE")
    assert app.AsyncResult("a").result == {"iban": MASK, "more": {"iban": "y"}}, "masked as configured"
    assert app.AsyncResult("b").info == {"password": SECRET, "pin": MASK}, "and nothing else is masked"


def test_redaction_can_be_switched_off() -> None:
    codec = codec_of({"result_redact": False})
    value = {"password": SECRET, "card": CARDS[0]}
    for field in (RESULT, KWARGS):
        assert codec.decode(codec.encode(value, task_id="a", field=field), task_id="a", field=field) == value
    assert codec.encode_text(f"password={SECRET}", task_id="a") == f"password={SECRET}"


def test_error_is_masked_whole_if_arguments_are_unsearchable() -> None:
    class Unsearchable(dict):  # type: ignore[type-arg]
        def items(self) -> Any:
            raise RuntimeError("not today")

        __iter__ = keys = values = items

    call = Call(task(login).task, (Unsearchable(password=SECRET),), {})
    assert SECRET not in (Redactor().text(f"ValueError: {SECRET}", call) or "")


@pytest.mark.parametrize("serializer", ["json", "rootcellar-json", "pickle"])
@pytest.mark.parametrize("state", ["RETRY", "FAILURE", "REVOKED"])
def test_exception_of_every_state_is_masked(app: Celery, state: str, serializer: str) -> None:
    app.tasks["login"].result_serializer = serializer
    app.backend.accept.update({"application/x-python-serialize", "application/json", "application/x-rootcellar-json"})
    exc = ValueError(f"for {SECRET}", {"detail": [f"token={SECRET}"]}, {"card": CARDS[0]}, CARDS[1])
    exc.note = CARDS[0]  # type: ignore[attr-defined]
    request = Context(id="a", task="login", args=["me", SECRET], kwargs={})
    app.backend.store_result("a", exc, state, traceback=f"  login('{SECRET}')", request=request)
    meta = app.backend.get_task_meta("a")
    assert meta["result"].args[:2] == ("for ***", {"detail": ["token=***"]})
    assert meta["result"].args[2:] == ({"card": MASK}, MASK)
    assert meta["traceback"] == "  login('***')"
    assert (exc.args[0], exc.note) == (f"for {SECRET}", CARDS[0]), "the raised exception is unchanged"  # type: ignore[attr-defined]


def test_chord_and_client_get_what_the_tasks_returned(app: Celery) -> None:
    value = {"token": SECRET, "card": CARDS[0]}
    request = Context(id="a", task="login", group="g", group_index=0, chord={"task": "x"}, args=[], kwargs={})
    request.chord = app.tasks["login"].s()
    part = app.backend.chords.part_of(request, "SUCCESS", value, holds_result=True)
    assert app.backend.codec.decode(part.result, task_id="a") == value
    app.backend.store_result("b", value, "SUCCESS")
    assert app.AsyncResult("b").get() == value


def test_secret_with_quotes_is_found_in_its_repr() -> None:
    redaction = Redaction(DEFAULTS)
    secret = "a'b\"c\\d\ne"
    secrets = redaction.secrets((), (), {"password": secret})
    assert redaction.text(f"x({secret!r}) {secret}", secrets) == f"x('{MASK}') {MASK}"


def test_exception_that_cannot_be_copied_is_masked() -> None:
    class Fussy(Exception):
        def __init__(self, *, code: int) -> None:
            super().__init__(f"password={SECRET}", code)

    copied = Redaction(DEFAULTS).failure(Fussy(code=4))
    assert (type(copied), copied.args) == (Fussy, (f"password={MASK}", 4))


@pytest.mark.parametrize(("pattern", "text", "masked"), [
    ("*a*b", "xayb=1 ba=2", "xayb=*** ba=2"),
    # a name may directly follow a letter of a language without blanks between words
    ("api_*_key", "値はapi_my_key=1", "値はapi_my_key=***"),
    ("api_*_key", "éapi_x_key: 'V1'", "éapi_x_key: ***"),
    ("mi_*eña*", "mi_contraseña_x=1", "mi_contraseña_x=***"),
    ("a*b", "a1b=1 za1b=2 --A-B=3", "a1b=*** za1b=2 --A-B=***"),
    ("*pin*", "my_pin_code=1, spine: 2", "my_pin_code=***, spine: ***"),
    ("api*", "api_x='1' xapi=2", "api_x=*** xapi=2"),
    ("*a*b*c", "aXbYc=1 acb=2 abcc: 3", "aXbYc=*** acb=2 abcc: ***"),
    ("*a*a", "a=1 aa=2", "a=1 aa=***"),
    ("a**b", "a-b=1", "a-b=***"),
    ("db_*_key", "DB-main-KEY=1", "DB-main-KEY=***"),
    ("*é*ñ", "xÉaÑ=1", "xÉaÑ=***"),
    ("x*y", """{"x1y": 5, 'xy': 6}""", """{"x1y": ***, 'xy': ***}"""),
    ("*a*b", "a" * 500 + "b=1", "a" * 500 + "b=***"),
])  # fmt: skip
def test_name_with_wildcards_is_found_in_a_text(pattern: str, text: str, masked: str) -> None:
    assert Redaction([pattern]).text(text) == masked


@pytest.mark.parametrize("beginning", ["", "x" * 64 + " ", "x" * 63 + " ", "жж: ", "token=y;", "_", "-"])
@pytest.mark.parametrize(("name", "is_kept"), [
    ("a_token", True), ("A-TOKEN", True), ("atoken", True), ("x_keep_token", True), ("ж_keep_token", True),
    ("x_a_token", False), ("жa_token", False), ("token", False), ("a_tokens_token", False), ("keep_x_token", False),
])  # fmt: skip
def test_excluded_name_differs_from_a_name_that_ends_alike(beginning: str, name: str, is_kept: bool) -> None:
    masked = Redaction(["*token", "-a_token", "-*keep_token"]).text(f"{beginning}{name}=secret")
    assert masked.endswith(f"{name}={'secret' if is_kept else MASK}")
