"""The Celery app of the backend conformance suite.

Workers import it and read their settings from the environment: ``TEST_BROKER``, ``TEST_BACKEND``, and ``TEST_CONF``,
which is JSON. Tests make apps of it with :func:`make_app`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections.abc import Callable
from typing import Any

from celery import Celery, chain, chord, current_app, group
from celery.exceptions import Ignore, Reject
from celery.result import allow_join_result

from rootcellar.testing.gate import wait_at

_tasks: list[tuple[Callable[..., Any], dict[str, Any]]] = []


def make_app(broker: str, backend: str | None, **conf: Any) -> Celery:
    """Return an app with all the tasks of this module, named ``conformance.`` and the function."""
    app = Celery("conformance", broker=broker, backend=backend, set_as_current=False)
    app.conf.update(broker_connection_retry_on_startup=True, **conf)
    for function, options in _tasks:
        app.task(name=f"conformance.{function.__name__}", **options)(function)
    return app


def task(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _tasks.append((function, options))
        return function

    return register


# -- exceptions --------------------------------------------------------------------------------------------------------


class Own(Exception):
    """An application's exception that keeps its arguments."""


class Picky(Exception):
    """Its constructor's arguments differ from its ``args``."""

    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"code {code}", {"detail": detail})
        self.code = code


class Rewriting(Exception):
    """Its constructor changes its argument."""

    def __init__(self, text: str) -> None:
        super().__init__(f"rewritten: {text}")


class Outer:
    class Nested(Exception):
        """Defined in another class."""


class Attributes(ValueError):
    """Cannot be pickled, and shows an attribute that its constructor sets."""

    def __init__(self, *, code: int) -> None:
        super().__init__("oh")
        self.code = code

    def __str__(self) -> str:
        return f"code {self.code}"


class OwnBase(BaseException):
    """Not an ``Exception``."""


def _unimportable() -> type[Exception]:
    class Local(Exception):
        """Defined in a function, so that it cannot be imported."""

    return Local


def _foreign() -> type[Exception]:
    return type("Foreign", (Exception,), {"__module__": "a_module_that.only_the_worker_has"})


def _caused() -> Exception:
    exc = Own("outer")
    exc.__cause__ = ValueError("inner")
    exc.__dict__["__notes__"] = ["a note"]
    return exc


EXCEPTIONS: dict[str, Callable[[], BaseException]] = {
    "builtin": lambda: ValueError("oh", 7),
    "without arguments": lambda: KeyError(),
    "own": lambda: Own("text", 2, {"key": [None, 1.5]}),
    "picky": lambda: Picky(404, detail="gone"),
    "rewriting": lambda: Rewriting("once"),
    "nested": lambda: Outer.Nested("deep"),
    "unimportable": lambda: _unimportable()("somewhere", 3),
    "foreign": lambda: _foreign()("elsewhere", 4),
    "unencodable arguments": lambda: Own("text", object),
    "text": lambda: Own("🧊 \x00 \ud800 قبو"),
    "os": lambda: FileNotFoundError(2, "No such file", "cellar.txt"),
    "group": lambda: Own(ValueError("inner")),
    "attributes": lambda: Attributes(code=7),
    "caused": lambda: _caused(),
    "cancelled": lambda: asyncio.CancelledError("why"),
    "interrupted": lambda: KeyboardInterrupt("why"),
    "own base": lambda: OwnBase("why", 2),
    "unicode": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
}


# -- values ------------------------------------------------------------------------------------------------------------


def deep(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


JSON_VALUES: dict[str, Any] = {
    "null": None,
    "booleans": [True, False],
    "empty": ["", [], {}],
    "key order": {"z": 1, "a": {"y": 2, "b": 3}, "m": []},
    "large integers": [2**53 + 1, 2**63, 2**64, 2**200, -(2**200), 10**400],
    "floats": [1e308, -1e308, 5e-324, 0.1, 1e22, 1.0, 1e16],
    "minus zero": -0.0,
    "not a number": float("nan"),
    "infinities": [float("inf"), float("-inf"), {"deep": float("nan")}],
    "NUL": "\u0000",
    "NUL everywhere": {"a\u0000b": ["\u0000", {"\u0000": "\u0000"}]},
    "lone surrogates": ["\ud800", "\udfff", "\udc00\ud800", {"\udead": "x\udbffy"}],
    "emoji": "🧊 👩‍👩‍👧 🏴‍☠️ e\u0301",
    "right to left": {"قبو": "שלום \u202eabc\u202c"},
    "escapes": "\\u0000 \\ud800 \" \\ \b\f\n\r\t\x7f\u2028\u2029 </script> %s {x} $1 '' \\",
    "looks typed": {"__type__": "datetime", "__value__": "2031-05-06T07:08:09"},
    "looks typed, deep": [{"__type__": "uuid", "__value__": {"__type__": "bytes", "__value__": "eA=="}}],
    "looks like our own mark": {"__type__": "rootcellar.dict", "__value__": [["a", 1]]},
    "nearly typed": [{"__type__": "x"}, {"__value__": 1}, {"__type__": 1, "__value__": 2, "more": 3}],
    "looks typed, not plain": [{"__type__": "\ud800", "__value__": float("nan")}, "\u0000", 2**70],
    "looks like an exception": {"exc_type": "ValueError", "exc_message": ["x"], "exc_module": "builtins"},
    "looks like a result": [["id", None], None],
    "deep lists": deep(800),
    "deep lists, looks typed": [deep(400), {"__type__": "x", "__value__": "y"}, "\ud800"],
    "wide": list(range(20_000)),
    "many keys": {f"key {n}": n for n in range(5_000)},
}


@task()
def value(name: str) -> Any:
    return JSON_VALUES[name]


@task()
def large_text(megabytes: int) -> str:
    return large(megabytes)


def large(megabytes: int) -> str:
    return random.Random(megabytes).randbytes(1 << 19).hex() * megabytes


@task()
def unencodable() -> Any:
    return object()


@task()
def too_deep() -> Any:
    return deep(100_000)


# -- simple tasks ------------------------------------------------------------------------------------------------------


@task()
def add(x: Any, y: Any) -> Any:
    return x + y


@task()
def echo(*args: Any) -> Any:
    return args[0] if len(args) == 1 else list(args)


@task()
def total(values: list[Any]) -> Any:
    """Add up numbers, and lists of numbers."""
    return sum(total(one) if isinstance(one, list) else one for one in values)


@task()
def raise_(name: str, *_: Any) -> None:
    raise EXCEPTIONS[name]()


@task()
def fail(*_: Any, message: str = "oops") -> None:
    raise ValueError(message)


@task()
def hold(port: int, result: Any = None) -> Any:
    wait_at(port)
    return result


@task(track_started=True)
def hold_started(port: int, result: Any = None) -> Any:
    wait_at(port)
    return result


@task(bind=True)
def progress(self: Any, port: int, steps: int) -> str:
    """Store the state PROGRESS at each step, and wait there for the test."""
    for step in range(steps):
        self.update_state(state="PROGRESS", meta={"done": step, "of": steps})
        wait_at(port)
    return "done"


@task(bind=True)
def where(self: Any, *_: Any) -> dict[str, Any]:
    return {"pid": os.getpid(), "hostname": self.request.hostname, "retries": self.request.retries}


@task(bind=True)
def report(self: Any, port: int, state: str, task_id: str | None = None) -> str:
    """Store a state for a task, or for itself, wait for the test, and return."""
    self.update_state(task_id=task_id, state=state, meta={"by": "hand"})
    wait_at(port)
    return "returned"


@task(bind=True)
def report_and_retry(self: Any, state: str) -> str:
    """Store a state for itself in the first run, and retry."""
    if not self.request.retries:
        self.update_state(state=state, meta=ValueError("by hand") if state == "FAILURE" else {"by": "hand"})
        raise self.retry(countdown=0)
    return "returned"


@task(bind=True)
def settle(self: Any, state: str) -> str:
    """Store a state by hand, and then return."""
    self.update_state(state=state, meta={"by": "hand"})
    return "returned"


# -- retries and other ends --------------------------------------------------------------------------------------------


@task(bind=True, max_retries=5)
def retry_until(self: Any, count: int) -> int:
    if self.request.retries < count:
        raise self.retry(exc=Own("not yet", self.request.retries), countdown=0)
    return int(self.request.retries)


@task(bind=True)
def retry_tomorrow(self: Any) -> None:
    raise self.retry(exc=Own("tomorrow", 1), countdown=86_400)


@task(bind=True)
def retry_for_attributes(self: Any) -> None:
    try:
        raise Attributes(code=7)
    except Attributes as exc:
        raise self.retry(exc=exc, countdown=86_400) from exc


@task(bind=True, max_retries=1)
def retry_in_vain(self: Any) -> None:
    raise self.retry(exc=Own("never", self.request.retries), countdown=0)


@task(autoretry_for=(Own,), max_retries=2, retry_backoff=False, default_retry_delay=0, bind=True)
def retry_by_itself(self: Any) -> int:
    if self.request.retries < 2:
        raise Own("again")
    return int(self.request.retries)


@task(bind=True)
def retry_with_children(self: Any, ends_with_child: bool) -> Any:
    """Send a task in the first run, and also in the second if ``ends_with_child``; return its id."""
    if self.request.retries == 0 or ends_with_child:
        child = self.app.tasks["conformance.add"].delay(1, 1)
    if self.request.retries == 0:
        raise self.retry(countdown=0)
    return child.id if ends_with_child else None


@task()
def reject() -> None:
    raise Reject("not for me", requeue=False)


@task(bind=True)
def ignore(self: Any, state: str = "") -> None:
    if state:
        self.update_state(state=state, meta={"left": "alone"})
    raise Ignore


@task()
def lose_worker() -> None:
    """End the process of the pool that runs it."""
    os.kill(os.getpid(), signal.SIGKILL)


@task(ignore_result=True)
def ignored(*_: Any) -> str:
    return "for nobody"


@task(ignore_result=True, store_errors_even_if_ignored=True)
def ignored_but_for_errors() -> None:
    raise Own("kept")


@task(throws=(Own,))
def fail_as_expected() -> None:
    raise Own("expected")


# -- tasks that call tasks ---------------------------------------------------------------------------------------------


@task(bind=True)
def parent(self: Any, depth: int) -> Any:
    """Call itself twice, down to ``depth`` 0, and return the results as tuples."""
    if depth == 0:
        return "leaf"
    return [self.delay(depth - 1).as_tuple() for _ in range(2)]


@task(bind=True)
def parent_of_group(self: Any) -> Any:
    return group(self.app.signature("conformance.add", (n, n)) for n in range(3))().as_tuple()


@task(bind=True)
def waits_for_child(self: Any, x: int) -> Any:
    with allow_join_result():
        return self.app.tasks["conformance.add"].delay(x, 1).get(timeout=20)


@task(bind=True)
def blocks(self: Any) -> Any:
    return self.app.AsyncResult("any").get(timeout=0)


@task(bind=True)
def replace_by_task(self: Any, x: int) -> Any:
    raise self.replace(self.app.signature("conformance.add", (x, 10)))


@task(bind=True)
def replace_by_group(self: Any, x: int) -> Any:
    raise self.replace(group(self.app.signature("conformance.add", (x, n)) for n in range(3)))


@task(bind=True)
def replace_by_chain(self: Any, x: int) -> Any:
    add_one = self.app.signature("conformance.add", (1,))
    raise self.replace(chain(self.app.signature("conformance.add", (x, 1)), add_one.clone(), add_one.clone()))


@task(bind=True)
def replace_by_chord(self: Any, x: int) -> Any:
    header = group(self.app.signature("conformance.add", (x, n)) for n in range(3))
    raise self.replace(chord(header, self.app.signature("conformance.total")))


@task(bind=True)
def replace_by_failure(self: Any, *_: Any) -> Any:
    raise self.replace(self.app.signature("conformance.fail"))


@task(bind=True)
def replace_by_failing_chord(self: Any) -> Any:
    header = [self.app.signature("conformance.add", (1, 1)), self.app.signature("conformance.fail")]
    raise self.replace(chord(header, self.app.signature("conformance.total")))


@task(bind=True)
def grow_chord(self: Any, x: int) -> Any:
    self.add_to_chord(self.app.signature("conformance.add", (x, 100)))
    return x


# -- errbacks ----------------------------------------------------------------------------------------------------------


@task(bind=True)
def old_errback(self: Any, task_id: str) -> str:
    """Runs as a task, with the id of the task that failed."""
    return f"{task_id} failed"


@task()
def errback(request: Any, exc: BaseException, traceback: Any) -> None:
    """Runs where the task failed; stores a result under an id that the test can know."""
    current_app.backend.store_result(f"errback of {request.id}", [request.id, repr(exc)], "SUCCESS")


@task()
def count_errback(request: Any, exc: BaseException, traceback: Any, file: str) -> None:
    """Add a line to a file: the id of the task for which it was called."""
    with open(file, "a", encoding="utf-8") as calls:
        calls.write(f"{request.id or ''}\n")


if "TEST_BROKER" in os.environ:
    app = make_app(
        os.environ["TEST_BROKER"], os.environ.get("TEST_BACKEND"), **json.loads(os.environ.get("TEST_CONF", "{}"))
    )
