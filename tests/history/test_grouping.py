"""Texts of tracebacks, messages and exceptions are grouped by what they have in common."""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import ChordError
from celery.utils.serialization import UnpickleableExceptionWrapper
from hypothesis import given, settings
from hypothesis import strategies as st

import rootcellar
from rootcellar.backend import exceptions
from rootcellar.history.grouping import own
from rootcellar.history.grouping.described import describe
from rootcellar.history.grouping.frames import read_traceback
from rootcellar.history.grouping.grouping import Grouped, Grouper
from rootcellar.history.grouping.identity import group_of, group_of_text, text_of_group
from rootcellar.history.grouping.in_app import Application, application_of_process
from rootcellar.history.grouping.many import NewGroups
from rootcellar.history.grouping.template import template_of
from rootcellar.payloads import serialise

GROUPER = Grouper(Application(["/srv/shop"]))
TEXT = """\
Traceback (most recent call last):
  File "/srv/venv/lib/python3.12/site-packages/celery/app/trace.py", line 453, in trace_task
    R = retval = fun(*args, **kwargs)
                 ^^^^^^^^^^^^^^^^^^^^
  File "/srv/shop/shop/tasks.py", line 20, in send
    charge(order)
  File "/srv/shop/shop/cards.py", line 7, in charge
    raise {raised}
"""


def failed(raised: str = "ValueError: no money", path: str = "/srv/shop", **changes: str) -> str:
    """Return the text of a traceback, with parts replaced."""
    text = TEXT.replace("{raised}", raised.split(":")[0]).replace("/srv/shop", path) + raised + "\n"
    for old, new in changes.items():
        text = text.replace(old, new)
    return text


def group(text: str | None, failure: Any = None, task: str = "shop.tasks.send", grouper: Grouper = GROUPER) -> Grouped:
    return grouper.group(failure, text, task)


@pytest.fixture(autouse=True)
def _own_functions() -> Iterator[None]:
    before = own._functions.copy()
    yield
    own._functions[:] = before


# -- the text of a traceback


def test_frames_are_read_without_marks_and_with_their_source() -> None:
    read = read_traceback(failed())
    assert [(frame.function, frame.source) for frame in read.frames] == [
        ("trace_task", "R = retval = fun(*args, **kwargs)"),
        ("send", "charge(order)"),
        ("charge", "raise ValueError"),
    ]
    assert (read.type, read.message.strip(), read.others) == ("ValueError", "no money", ())


def test_coloured_traceback_is_read_as_a_plain_one() -> None:
    lines = failed().splitlines(keepends=True)
    coloured = "".join(f"\x1b[1;35m{line.rstrip()}\x1b[0m\n" for line in lines)
    assert read_traceback(coloured) == read_traceback(failed())


def test_last_exception_of_a_chain_counts_with_the_types_of_the_others() -> None:
    try:
        try:
            {}["x"]
        except KeyError as exc:
            raise OSError("y") from exc
    except OSError as exc:
        text = "".join(traceback.format_exception(exc))
    read = read_traceback(text)
    assert (read.type, read.message.strip(), read.others) == ("OSError", "y", ("KeyError",))
    assert [frame.function for frame in read.frames] == [sys._getframe().f_code.co_name]


def test_traceback_in_a_message_does_not_hide_the_frames() -> None:
    read = read_traceback(failed("RuntimeError: the child said:") + TEXT + "KeyError: 1\n")
    assert read.type == "RuntimeError"
    assert [frame.function for frame in read.frames][:3] == ["trace_task", "send", "charge"]


def test_text_without_its_beginning_is_read_to_its_end() -> None:
    text = failed()
    assert group(text[len(text) // 2 :]).group == group(text).group


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no groups of exceptions")
def test_group_of_exceptions_has_its_own_frames_and_those_of_its_first_member() -> None:
    def member() -> None:
        raise KeyError("x")

    try:
        try:
            member()
        except KeyError as exc:
            raise ExceptionGroup("several", [exc, ValueError(1)]) from None  # noqa: F821
    except Exception as exc:
        text = "".join(traceback.format_exception(exc))
    read = read_traceback(text)
    assert (read.type, read.message.split("\n")[0]) == ("ExceptionGroup", "several (2 sub-exceptions)")
    assert [frame.function for frame in read.frames] == [sys._getframe().f_code.co_name]
    assert [frame.function for frame in read.members][-1] == "member"


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300), st.data())
def test_any_text_gives_a_group(text: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(failed())))
    for each in (text, failed()[:place] + text + failed()[place:]):
        assert 0 <= group(each).group < 2**40
        assert 0 <= group(None, {"exc_type": each, "exc_message": text}).group < 2**40


@pytest.mark.parametrize(
    "failure",
    [
        *(None, 3, [], {"exc_type": None}),
        {"exc_type": 3, "exc_message": {"a": 1}, "exc_module": 4, "rootcellar": 5},
        {"exc_type": "A", "exc_message": (1, 2), "rootcellar": {"exceptions": [1, {"exc_type": []}], "state": 3}},
    ],
)
def test_odd_failure_gives_a_group(failure: Any) -> None:
    assert GROUPER.group(failure, None, None).group == GROUPER.group(failure, "", "").group


# -- what makes a group


def test_group_is_the_type_and_the_place() -> None:
    found = group(failed())
    assert (found.type, found.place, found.template) == ("ValueError", "shop.cards:charge", "no money")


@pytest.mark.parametrize(
    "text",
    [
        failed().replace("line 7", "line 70").replace("line 20", "line 1"),
        failed("ValueError: order 17 has no money"),
        failed(path="/srv/releases/20261101"),
        failed().replace("                 ^^^^^^^^^^^^^^^^^^^^\n", "").replace("python3.12", "python3.10"),
        failed().replace("in send", "in send_all").replace("shop/tasks.py", "shop/jobs.py"),
        failed().replace("    raise ", "        raise  "),
    ],
    ids=["lines", "message", "folder", "Python", "caller", "blanks"],
)
def test_other_text_of_the_same_failure_is_in_the_same_group(text: str) -> None:
    grouper = Grouper(Application(["/srv/releases/20261101", "/srv/shop"]))
    assert group(text, grouper=grouper).group == group(failed()).group


@pytest.mark.parametrize(
    "text",
    [
        failed("KeyError: 'x'"),
        failed().replace("in charge", "in refund"),
        failed().replace("shop/cards.py", "shop/banks.py"),
        failed().replace("    raise ValueError", "    return cents / 0"),
        f"{failed('KeyError: 1')}\nDuring handling of the above exception, another exception occurred:\n\n{failed()}",
    ],
    ids=["type", "function", "module", "line", "cause"],
)
def test_text_of_another_failure_is_in_another_group(text: str) -> None:
    assert group(text).group != group(failed()).group


def test_failure_outside_the_application_is_grouped_by_task_and_message() -> None:
    frame = '  File "/usr/lib/python3.11/x.py", line 1, in f\n    g()\n'
    lost = f"Traceback (most recent call last):\n{frame}OSError: job {{}}\n"
    assert group(lost.format(1)).group == group(lost.format(22)).group
    assert group(lost.format(1)).group != group(lost.format(1), task="shop.tasks.other").group
    assert group(lost.format(1)).group != group(lost.format("x")).group
    assert group(lost.format(1)).place == "shop.tasks.send"


def test_soft_time_limit_is_one_group_wherever_it_strikes() -> None:
    texts = [failed("billiard.exceptions.SoftTimeLimitExceeded: SoftTimeLimitExceeded()")]
    texts.append(texts[0].replace("in charge", "in elsewhere").replace("shop/cards.py", "shop/x.py"))
    exc = SoftTimeLimitExceeded()
    found = [group(text, exc) for text in texts]
    assert found[0].group == found[1].group
    assert (found[0].type, found[0].place) == ("celery.exceptions.SoftTimeLimitExceeded", "shop.tasks:send")


def test_recursion_is_one_group_wherever_it_ends() -> None:
    frame = '  File "/srv/shop/shop/walk.py", line 3, in {}\n    step()\n'
    head, end = "Traceback (most recent call last):\n", "RecursionError: maximum recursion depth exceeded\n"
    texts = [head + (frame.format("a") + frame.format("b")) * 20 + tail + end for tail in ("", frame.format("a"))]
    repeated = head + frame.format("a") * 3 + "  [Previous line repeated 900 more times]\n" + frame.format("leaf") + end
    assert group(texts[0]).group == group(texts[1]).group != group(repeated).group
    assert group(repeated).place == "shop.walk:a"


def test_chord_is_grouped_by_the_error_of_its_part() -> None:
    def of(part: str, raised: str, task: str = "shop.tasks.send") -> Grouped:
        return group(None, ChordError(f"Dependency {part} raised {raised}"), task)

    found = of("8b1c", "KeyError('email')")
    assert (found.type, found.place, found.dependency) == ("ChordError: KeyError", "chord", "8b1c")
    assert found.group == of("77aa", "KeyError('email')", "another.task").group
    assert found.group not in (of("8b1c", "OSError()").group, of("8b1c", "KeyError('name')").group)


def test_wrapped_exception_is_grouped_by_what_it_wraps() -> None:
    wrapper = UnpickleableExceptionWrapper("shop.errors", "CardRefused", (1,), "CardRefused(1)")
    for failure in (wrapper, exceptions.describe(wrapper, lambda value: serialise(value, "json"))):
        assert describe(failure).type == "shop.errors.CardRefused"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no groups of exceptions")
def test_group_of_exceptions_has_the_types_of_its_leaves() -> None:
    inner = ExceptionGroup("inner", [ValueError(2), OSError()])  # noqa: F821
    exc = ExceptionGroup("outer", [KeyError(1), ValueError(1), inner])  # noqa: F821
    for failure in (exc, exceptions.describe(exc, lambda value: serialise(value, "json"))):
        assert describe(failure).leaves == ("KeyError", "OSError", "ValueError")
    assert GROUPER.group(exc, None, "x").type == "ExceptionGroup: KeyError, OSError, ValueError"


@pytest.mark.parametrize("exc", [KeyError("email"), ValueError(), ValueError("a", 1), OSError(2, "No such file")])
def test_stored_exception_has_the_message_of_the_raised_one(exc: BaseException) -> None:
    assert describe(exceptions.describe(exc, lambda value: serialise(value, "json"))) == describe(exc)


# -- the application's own frames


@pytest.mark.parametrize(
    ("path", "module"),
    [
        ("/srv/shop/shop/cards.py", "shop.cards"),
        ("/srv/shop/shop/__init__.py", "shop"),
        ("/srv/shop/tasks.py", "tasks"),
        ("/opt/releases/20261101/shop/billing/deep/cards.py", "shop.billing.deep.cards"),
        ("/opt/releases/20261101/crm/cards.py", "crm.cards"),
        ("C:\\code\\shop\\cards.py", "shop.cards"),
        ("/home/me/v1.2.3/cards.py", "cards"),
        ("/srv/venv/lib/python3.12/site-packages/requests/api.py", ""),
        ("/usr/lib/python3/dist-packages/requests/api.py", ""),
        ("/usr/lib/python3.11/json/decoder.py", ""),
        ("/opt/python/json/decoder.py", ""),
        ("<frozen importlib._bootstrap>", ""),
        ("<string>", ""),
        ("/srv/shop/celery/app/trace.py", ""),
        ("/srv/shop/celeryapp/x.py", "celeryapp.x"),
        ("/srv/shop/acme/base/http.py", ""),
    ],
)
def test_module_of_a_frame_is_named_without_the_folder(path: str, module: str) -> None:
    application = Application(["/srv/shop/", "/"], ["acme.*"], "/opt/python")
    assert application.module_of(path, "shop.tasks.send") == module


def test_application_of_this_process_names_its_modules() -> None:
    assert application_of_process().module_of(__file__) == __name__
    assert application_of_process().module_of(str(pytest.__file__)) == ""


# -- templates


@pytest.mark.parametrize(
    ("message", "template"),
    [
        ("'email'", "'email'"),
        ("'user-17'", "<text>"),
        ("user 17 of 1,234 after 30.5s", "user <int> of <int> after <float>"),
        ("utf8 and h264 on k8s", "utf8 and h264 on k8s"),
        ("404 Client Error: Not Found for url: https://x/y?z=1", "404 Client Error: Not Found for url: <url>"),
        ("status 503, HTTP/1.1 502, [Errno 111] refused", "status 503, HTTP/1.1 502, [Errno 111] refused"),
        ("Worker exited prematurely: signal 9 (SIGKILL) Job: 12.", None),
        ('(1062, "Duplicate entry for key")', '(1062, "Duplicate entry for key")'),
        ("no such table: orders\n[SQL: SELECT 1]", "no such table: orders"),
        ("bad row DETAIL: Key (id)=(1)", "bad row"),
        ("Several problems:\n\n  the first\nthe second", "Several problems: the first"),
        ("<Order object at 0x7f12ab> of a@b.example", "<Order> of <email>"),
        ("550e8400-e29b-41d4-a716-446655440000 at 2026-01-02T03:04:05Z", "<uuid> at <date>"),
        ("cannot open /srv/data/17.csv", "cannot open <path>"),
        ("10.0.0.1:5432 and fe80:0:0:1:2 refused", "<ip> and <ip> refused"),
        ("key='x' name=\"y\"", "key=<text> name=<text>"),
        ("commit deadbeef1 is 12345678", "commit <hex> is <int>"),
        ("can't find 'x' in user's cart 12", "can't find 'x' in user's cart <int>"),
        (" \n ", ""),
    ],
)
def test_template_has_nothing_that_varies(message: str, template: str | None) -> None:
    assert template_of(message) == (message.replace("12", "<int>") if template is None else template)


# -- identity


@settings(max_examples=60)
@given(st.integers(-(2**63), 2**63 - 1))
def test_group_is_read_from_its_text(number: int) -> None:
    text = text_of_group(number)
    assert group_of_text(f" {text.lower()} ") == number
    assert len(text) == (8 if 0 <= number < 2**40 else 13)


@pytest.mark.parametrize("text", ["", "7K2Q9XM", "7K2Q9XMU", "ZZZZZZZZZZZZZ", "7K2Q9XMD7"])
def test_other_text_is_no_group(text: str) -> None:
    with pytest.raises(ValueError, match="not a group"):
        group_of_text(text)


def test_key_gives_other_numbers_and_parts_are_not_joined() -> None:
    assert group_of(["a", "b"]) != group_of(["ab"]) != group_of(["ab", ""])
    assert group_of(["a"], b"one") != group_of(["a"], b"two")
    # a version whose numbers change must get another name
    assert text_of_group(group_of(["failure", "KeyError"])) == "GENJKWSZ"


# -- too many groups


def test_task_with_too_many_groups_has_one_for_the_rest() -> None:
    now = 0.0
    grouper = Grouper(Application(["/srv/shop"]), new_groups=NewGroups(3, lambda: now))
    texts = [failed().replace("in charge", f"in generated_{number}") for number in range(6)]
    found = [grouper.group(None, text, "x") for text in texts]
    assert [one.place for one in found[3:]] == ["many places of x"] * 3
    assert len({one.group for one in found}) == 4
    assert grouper.group(None, texts[0], "x") == found[0]
    assert grouper.group(None, texts[5], "y").place == "shop.cards:generated_5"
    assert grouper.group(None, texts[5].replace("ValueError", "KeyError"), "x").group != found[3].group
    now = 3_600.0
    assert grouper.group(None, texts[5], "x").place == "shop.cards:generated_5"


# -- the application's own choice


class Refused(Exception):
    failure_group: Any = None


@pytest.mark.parametrize("chosen", ["cards", ["cards", "{default}"], ("cards", 3)])
def test_attribute_of_the_exception_chooses_the_group(chosen: Any) -> None:
    exc, plain = Refused("no money"), Refused("no money")
    exc.failure_group = chosen
    ours, theirs = GROUPER.group(exc, failed(), "x", exc), GROUPER.group(plain, failed(), "x", plain)
    assert ours.group != theirs.group
    assert ours.place == theirs.place
    elsewhere = GROUPER.group(exc, failed().replace("in charge", "in refund"), "x", exc)
    assert (elsewhere.group == ours.group) == ("{default}" not in chosen)
    stored = exceptions.describe(exc, lambda value: serialise(value, "json"))
    assert GROUPER.group(stored, failed(), "x").group == ours.group


@pytest.mark.parametrize("chosen", ["", [], ["{default}"], 3, {"a": 1}, [None], b"x"])
def test_attribute_of_another_type_chooses_nothing(chosen: Any) -> None:
    exc, plain = Refused("no money"), Refused("no money")
    exc.failure_group = chosen
    assert GROUPER.group(exc, failed(), "x", exc) == GROUPER.group(plain, failed(), "x", plain)


def test_function_chooses_the_group() -> None:
    @rootcellar.group_failures
    def by_task(exc: BaseException, task: str | None) -> str | None:
        return None if isinstance(exc, KeyError) else f"all of {task}"

    exc = ValueError(1)
    ours = GROUPER.group(exc, failed(), "x", exc).group
    assert ours == GROUPER.group(OSError(), None, "x", OSError()).group
    assert ours != GROUPER.group(exc, failed(), "y", exc).group
    assert GROUPER.group(KeyError(), failed(), "x", KeyError()).group == GROUPER.group(KeyError(), failed(), "x").group


def test_function_that_fails_is_logged_once_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    @rootcellar.group_failures
    def broken(exc: BaseException, task: str | None) -> str:
        raise LookupError("nothing here")

    exc = ValueError(1)
    with caplog.at_level(logging.WARNING):
        found = [GROUPER.group(exc, failed(), "x", exc) for _ in range(2)]
    assert found == [GROUPER.group(exc, failed(), "x")] * 2
    assert len([record for record in caplog.records if "broken" in record.getMessage()]) == 1


def test_function_that_exits_is_logged_once_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    class Exits(dict[str, str]):
        """An unhashable callable."""

        def __call__(self, exc: BaseException, task: str | None) -> str:
            sys.exit(3)

    rootcellar.group_failures(Exits())
    exc = ValueError(1)
    with caplog.at_level(logging.WARNING):
        found = [GROUPER.group(exc, failed(), "x", exc) for _ in range(2)]
    assert found == [GROUPER.group(exc, failed(), "x")] * 2
    assert len([record for record in caplog.records if "SystemExit(3)" in record.getMessage()]) == 1


@pytest.mark.parametrize("kind", [KeyboardInterrupt, asyncio.CancelledError])
def test_end_of_the_process_in_a_function_passes(kind: type[BaseException]) -> None:
    @rootcellar.group_failures
    def ended(exc: BaseException, task: str | None) -> str:
        raise kind

    with pytest.raises(kind):
        GROUPER.group(ValueError(), failed(), "x", ValueError())


def test_time_limit_in_a_function_passes() -> None:
    @rootcellar.group_failures
    def slow(exc: BaseException, task: str | None) -> str:
        raise SoftTimeLimitExceeded

    with pytest.raises(SoftTimeLimitExceeded):
        GROUPER.group(ValueError(), failed(), "x", ValueError())


def test_attribute_that_fails_chooses_nothing() -> None:
    class Odd(Exception):
        @property
        def failure_group(self) -> str:
            raise LookupError

        def __str__(self) -> str:
            raise LookupError

    assert GROUPER.group(Odd(), failed(), "x", Odd()).place == "shop.cards:charge"
