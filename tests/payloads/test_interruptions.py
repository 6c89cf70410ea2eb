"""Interruptions (time limits, exits, exceptions of signal handlers) pass through encoding and decoding unchanged."""

from __future__ import annotations

import copy
import json
import pickle
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery
from fsspec.implementations.memory import MemoryFileSystem
from kombu import compression

import rootcellar
from rootcellar.backend import exceptions
from rootcellar.errors import PayloadUnreadable, StoreUnavailable
from rootcellar.payloads import Codec, Compressor, NotEncodable, serialise
from rootcellar.payloads.blobs import open_blobs
from rootcellar.payloads.pickles import read_old_pickle
from rootcellar.payloads.redaction.patterns import Patterns
from rootcellar.payloads.redaction.per_task import Call, Redactor
from rootcellar.records import TYPED_JSON, Payload
from rootcellar.support.interruptions import Moment, interruption_in
from tests.apps.interrupted import Endless
from tests.apps.interrupted import app as worker_app
from tests.workers import Worker


class OwnLimit(Exception):
    """An exception that an application's signal handler raises."""


class OwnTimeout(TimeoutError):
    """The same, of a class that is also an error of the network."""


def raise_soft_time_limit() -> None:
    raise SoftTimeLimitExceeded


def raise_keyboard_interrupt() -> None:
    raise KeyboardInterrupt


def raise_exit() -> None:
    # as a web server aborts a request
    raise SystemExit(1)


def in_a_handler(kind: type[Exception]) -> Callable[[], None]:
    def handler(*_: Any) -> None:
        raise kind

    def raise_in_handler() -> None:
        before = signal.signal(signal.SIGUSR2, handler)
        try:
            signal.raise_signal(signal.SIGUSR2)
        finally:
            handlers.append(before)

    return raise_in_handler


#: the earlier handlers
handlers: list[Any] = []

INTERRUPTIONS: dict[type[BaseException], Callable[[], None]] = {
    SoftTimeLimitExceeded: raise_soft_time_limit,
    KeyboardInterrupt: raise_keyboard_interrupt,
    SystemExit: raise_exit,
    OwnLimit: in_a_handler(OwnLimit),
    OwnTimeout: in_a_handler(OwnTimeout),
}


@pytest.fixture(params=INTERRUPTIONS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> Iterator[type[BaseException]]:
    yield request.param
    while handlers:
        signal.signal(signal.SIGUSR2, handlers.pop())


class Interrupted:
    """A value that raises an interruption in every step of encoding."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def _interrupt(self, *_: Any) -> Any:
        INTERRUPTIONS[self.kind]()

    __reduce__ = __repr__ = __deepcopy__ = _interrupt

    def __setstate__(self, state: Any) -> None:
        self._interrupt()


rootcellar.register_type(Interrupted, "tests.interrupted", Interrupted._interrupt, lambda name: interrupt_by_name(name))


def interrupt_by_name(name: str) -> Any:
    next(interrupt for kind, interrupt in INTERRUPTIONS.items() if kind.__name__ == name)()


@contextmanager
def passes_through(kind: type[BaseException]) -> Iterator[None]:
    with pytest.raises(kind) as caught:
        yield
    assert type(caught.value) is kind


CODEC = Codec(serializer="rootcellar-json", accept={TYPED_JSON, "application/x-python-serialize"})


def decode(body: bytes, content_type: str, **options: Any) -> Any:
    return CODEC.decode(Payload(body, content_type, **options), task_id="a task")


@pytest.mark.parametrize("serializer", ["rootcellar-json", "pickle"])
def test_interruption_passes_through_encoding(kind: type[BaseException], serializer: str) -> None:
    with passes_through(kind):
        CODEC.encode([Interrupted(kind)], task_id="a task", serializer=serializer)


def test_interruption_passes_through_decoding_typed_json(kind: type[BaseException]) -> None:
    text = json.dumps([{"__rootcellar__": "tests.interrupted", "__value__": kind.__name__}])
    with passes_through(kind):
        decode(text.encode(), TYPED_JSON)


class Pickled:
    """A value whose unpickling raises an interruption."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        return interrupt_by_name, (self.name,)


def test_interruption_passes_through_decoding_pickles(kind: type[BaseException]) -> None:
    with passes_through(kind):
        decode(pickle.dumps(Pickled(kind.__name__)), "application/x-python-serialize", content_encoding="binary")


def test_interruption_passes_through_decoding_old_pickles(
    kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rootcellar.payloads.pickles._bytes", None)
    monkeypatch.setitem(
        read_old_pickle.__globals__["_PLAIN"], ("builtins", "complex"), lambda *_: INTERRUPTIONS[kind]()
    )
    with passes_through(kind):
        read_old_pickle(Payload(pickle.dumps(1 + 2j), "application/x-python-serialize", "binary"))


def test_interruption_passes_through_compression(kind: type[BaseException]) -> None:
    interrupt = INTERRUPTIONS[kind]
    compression.register(
        lambda body: interrupt(), lambda body: interrupt(), f"application/x-{kind.__name__}", aliases=[]
    )
    with passes_through(kind):
        Compressor(f"application/x-{kind.__name__}", threshold=0).compress(Payload(b"x" * 100))
    with passes_through(kind):
        Compressor().decompress(Payload(b"x", compression=f"application/x-{kind.__name__}"))


class Copied(dict[str, Any]):
    """A dict that raises an interruption when it is iterated."""

    kind: type[BaseException]

    def items(self) -> Any:
        INTERRUPTIONS[self.kind]()


def test_interruption_passes_through_redaction(kind: type[BaseException]) -> None:
    value = Copied(token="a secret")
    value.kind = kind
    redactor = Redactor(Patterns(("token",), ("token",)))
    with passes_through(kind):
        redactor.encoded(value, Call(), lambda value: Payload(b'{"token": "a secret"}'), is_result=True)
    with passes_through(kind):
        redactor.text("an error", Call(SimpleNamespace(name="a task", run=print), (), value))


def test_interruption_passes_through_describing_an_exception(kind: type[BaseException]) -> None:
    with passes_through(kind):
        exceptions.describe(ValueError(Interrupted(kind)), lambda value: serialise(value, "rootcellar-json"))

    def refuse(value: Any) -> None:
        raise NotEncodable("no")

    with passes_through(kind):
        exceptions.describe(ValueError(Interrupted(kind)), refuse)


class Failing(Exception):
    """An exception whose constructor raises an interruption."""

    def __init__(self, name: str) -> None:
        interrupt_by_name(name)


def test_interruption_passes_through_restoring_an_exception(kind: type[BaseException]) -> None:
    stored = {"exc_type": "Failing", "exc_module": __name__, "exc_message": [kind.__name__]}
    with passes_through(kind):
        exceptions.restore(stored)


def test_interruption_passes_through_a_blob_store(kind: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        INTERRUPTIONS[kind]()

    blobs = open_blobs("memory://blobs")
    for method in ("pipe_file", "cat_file"):
        monkeypatch.setattr(MemoryFileSystem, method, interrupt)
    with passes_through(kind):
        blobs.put("aa/name", b"body")
    with passes_through(kind):
        blobs.get("aa/name")


def test_interruption_passes_through_a_folder_of_blobs(
    kind: type[BaseException], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blobs = open_blobs(str(tmp_path))
    monkeypatch.setattr("os.fsync", lambda file: INTERRUPTIONS[kind]())
    with passes_through(kind):
        blobs.put("aa/name", b"body")
    assert not list(tmp_path.glob("??/*")), "no partial file is left"


def test_interruption_passes_through_calling_a_chord_body(kind: type[BaseException], tmp_path: Path) -> None:
    """The chord does not fail: the next sweep finishes it."""
    app = Celery(broker="memory://", backend=f"rootcellar+sqlite:///{tmp_path}/results.sqlite3", set_as_current=False)
    body = SimpleNamespace(delay=lambda values: INTERRUPTIONS[kind]())
    with passes_through(kind):
        app.backend.chords._publish("a chord", body, [])
    app.backend.store.close()


# -- other errors


def test_data_error_is_not_an_interruption() -> None:
    with pytest.raises(PayloadUnreadable):
        decode(b'{"__rootcellar__": "tests.interrupted", "__value__": "nobody"}', TYPED_JSON)
    with pytest.raises(NotEncodable):
        CODEC.encode(object(), task_id="a task")


def test_data_error_is_raised_while_a_limit_is_handled() -> None:
    """A task that reads a damaged result while it handles its time limit gets the error of the damage."""
    try:
        raise_soft_time_limit()
    except SoftTimeLimitExceeded:
        with pytest.raises(PayloadUnreadable):
            decode(b"{", TYPED_JSON)


def replace_an_interruption() -> None:
    """Replace the exception like psycopg when it reads the settings of a connection."""
    try:
        raise_soft_time_limit()
    except Exception:
        raise ValueError("a bad value") from None


def test_replaced_interruption_is_found() -> None:
    moment = Moment()
    with pytest.raises(ValueError, match="a bad value") as caught:
        replace_an_interruption()
    assert isinstance(interruption_in(caught.value, moment), SoftTimeLimitExceeded)
    assert interruption_in(caught.value) is None
    try:
        raise_soft_time_limit()
    except SoftTimeLimitExceeded:
        moment = Moment()
        with pytest.raises(ValueError, match="another") as caught:
            raise ValueError("another")  # noqa: B904 - like a library whose caller handles a limit
        assert interruption_in(caught.value, moment) is None


def test_ordinary_exception_is_not_an_interruption() -> None:
    for exc in (ValueError("x"), TimeoutError(), OSError(1, "x"), copy.Error(), StoreUnavailable("x")):
        with pytest.raises(type(exc)) as caught:
            raise exc
        assert interruption_in(caught.value) is None
    limit = SoftTimeLimitExceeded()
    assert interruption_in(limit) is limit
    assert interruption_in(NotEncodable("wrapped", where="x")) is None


# -- with a worker


@pytest.fixture(scope="module")
def app(postgres_server: Any, redis_server: Any) -> Iterator[Celery]:
    url = postgres_server.create_database()
    redis_server.flush()
    worker_app.conf.update(broker_url=redis_server.url, result_backend=f"rootcellar+{url}")
    env = {"TEST_BROKER": redis_server.url, "TEST_BACKEND": f"rootcellar+{url}"}
    with Worker("tests.apps.interrupted", env=env, concurrency=1):
        yield worker_app
    worker_app.backend.store.close()
    worker_app.close()


def test_soft_time_limit_ends_encoding_in_a_task(app: Celery) -> None:
    result = app.tasks["tests.apps.interrupted.store_progress"].delay()
    assert result.get(timeout=60) == "the task noticed"


def test_soft_time_limit_ends_decoding_in_a_task(app: Celery) -> None:
    app.backend.store_result("another", Endless("decode"), "SUCCESS")
    result = app.tasks["tests.apps.interrupted.read_another"].delay("another")
    assert result.get(timeout=60) == "the task noticed"
