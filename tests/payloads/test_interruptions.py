"""Time limits, aborts and signals' exceptions go through what encodes and decodes, unchanged, of whatever class."""

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
    """What an application's own handler of a signal raises."""


class OwnTimeout(TimeoutError):
    """The same, of a kind that is also an error of the network."""


def raise_soft_time_limit() -> None:
    raise SoftTimeLimitExceeded


def raise_keyboard_interrupt() -> None:
    raise KeyboardInterrupt


def raise_exit() -> None:
    # a web server's abort
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


#: the handlers that were there before
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
    """A value; whatever is done with it, an interruption strikes."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def _strike(self, *_: Any) -> Any:
        INTERRUPTIONS[self.kind]()

    __reduce__ = __repr__ = __deepcopy__ = _strike

    def __setstate__(self, state: Any) -> None:
        self._strike()


rootcellar.register_type(Interrupted, "tests.interrupted", Interrupted._strike, lambda name: strike_by_name(name))


def strike_by_name(name: str) -> Any:
    next(strike for kind, strike in INTERRUPTIONS.items() if kind.__name__ == name)()


@contextmanager
def goes_through(kind: type[BaseException]) -> Iterator[None]:
    with pytest.raises(kind) as caught:
        yield
    assert type(caught.value) is kind


CODEC = Codec(serializer="rootcellar-json", accept={TYPED_JSON, "application/x-python-serialize"})


def decode(body: bytes, content_type: str, **options: Any) -> Any:
    return CODEC.decode(Payload(body, content_type, **options), task_id="a task")


@pytest.mark.parametrize("serializer", ["rootcellar-json", "pickle"])
def test_interruption_goes_through_encoding(kind: type[BaseException], serializer: str) -> None:
    with goes_through(kind):
        CODEC.encode([Interrupted(kind)], task_id="a task", serializer=serializer)


def test_interruption_goes_through_decoding_of_typed_json(kind: type[BaseException]) -> None:
    text = json.dumps([{"__rootcellar__": "tests.interrupted", "__value__": kind.__name__}])
    with goes_through(kind):
        decode(text.encode(), TYPED_JSON)


class Pickled:
    """A value whose pickle is read by a function that an interruption strikes."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        return strike_by_name, (self.name,)


def test_interruption_goes_through_decoding_of_pickles(kind: type[BaseException]) -> None:
    with goes_through(kind):
        decode(pickle.dumps(Pickled(kind.__name__)), "application/x-python-serialize", content_encoding="binary")


def test_interruption_goes_through_decoding_of_old_pickles(
    kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rootcellar.payloads.pickles._bytes", None)
    monkeypatch.setitem(
        read_old_pickle.__globals__["_PLAIN"], ("builtins", "complex"), lambda *_: INTERRUPTIONS[kind]()
    )
    with goes_through(kind):
        read_old_pickle(Payload(pickle.dumps(1 + 2j), "application/x-python-serialize", "binary"))


def test_interruption_goes_through_compressing_and_decompressing(kind: type[BaseException]) -> None:
    strike = INTERRUPTIONS[kind]
    compression.register(lambda body: strike(), lambda body: strike(), f"application/x-{kind.__name__}", aliases=[])
    with goes_through(kind):
        Compressor(f"application/x-{kind.__name__}", threshold=0).compress(Payload(b"x" * 100))
    with goes_through(kind):
        Compressor().decompress(Payload(b"x", compression=f"application/x-{kind.__name__}"))


class Copied(dict[str, Any]):
    """A dict that an interruption strikes while it is looked through."""

    kind: type[BaseException]

    def items(self) -> Any:
        INTERRUPTIONS[self.kind]()


def test_interruption_goes_through_redaction(kind: type[BaseException]) -> None:
    value = Copied(token="a secret")
    value.kind = kind
    redactor = Redactor(Patterns(("token",), ("token",)))
    with goes_through(kind):
        redactor.encoded(value, Call(), lambda value: Payload(b'{"token": "a secret"}'), is_result=True)
    with goes_through(kind):
        redactor.text("an error", Call(SimpleNamespace(name="a task", run=print), (), value))


def test_interruption_goes_through_what_describes_an_exception(kind: type[BaseException]) -> None:
    with goes_through(kind):
        exceptions.describe(ValueError(Interrupted(kind)), lambda value: serialise(value, "rootcellar-json"))

    def refuse(value: Any) -> None:
        raise NotEncodable("no")

    with goes_through(kind):
        exceptions.describe(ValueError(Interrupted(kind)), refuse)


class Failing(Exception):
    """An exception whose constructor an interruption strikes."""

    def __init__(self, name: str) -> None:
        strike_by_name(name)


def test_interruption_goes_through_what_makes_an_exception_again(kind: type[BaseException]) -> None:
    stored = {"exc_type": "Failing", "exc_module": __name__, "exc_message": [kind.__name__]}
    with goes_through(kind):
        exceptions.restore(stored)


def test_interruption_goes_through_a_blob_store(kind: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    def strike(*_: Any, **__: Any) -> None:
        INTERRUPTIONS[kind]()

    blobs = open_blobs("memory://blobs")
    for method in ("pipe_file", "cat_file"):
        monkeypatch.setattr(MemoryFileSystem, method, strike)
    with goes_through(kind):
        blobs.put("aa/name", b"body")
    with goes_through(kind):
        blobs.get("aa/name")


def test_interruption_goes_through_a_folder_of_blobs(
    kind: type[BaseException], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blobs = open_blobs(str(tmp_path))
    monkeypatch.setattr("os.fsync", lambda file: INTERRUPTIONS[kind]())
    with goes_through(kind):
        blobs.put("aa/name", b"body")
    assert not list(tmp_path.glob("??/*")), "nothing half is left"


def test_interruption_goes_through_the_call_of_a_chord_body(kind: type[BaseException], tmp_path: Path) -> None:
    """The chord is not failed for it: it stays to be finished by the next sweep."""
    app = Celery(broker="memory://", backend=f"rootcellar+sqlite:///{tmp_path}/results.sqlite3", set_as_current=False)
    body = SimpleNamespace(delay=lambda values: INTERRUPTIONS[kind]())
    with goes_through(kind):
        app.backend.chords._publish("a chord", body, [])
    app.backend.store.close()


# -- what is no interruption


def test_errors_of_the_data_are_told_as_such() -> None:
    with pytest.raises(PayloadUnreadable):
        decode(b'{"__rootcellar__": "tests.interrupted", "__value__": "nobody"}', TYPED_JSON)
    with pytest.raises(NotEncodable):
        CODEC.encode(object(), task_id="a task")


def test_error_within_the_handling_of_an_interruption_is_told_as_what_it_is() -> None:
    """A task that handles its time limit, and reads a damaged result there, hears of the damage."""
    try:
        raise_soft_time_limit()
    except SoftTimeLimitExceeded:
        with pytest.raises(PayloadUnreadable):
            decode(b"{", TYPED_JSON)


def raise_what_replaces_any() -> None:
    """Do as psycopg does while it reads the settings of a connection."""
    try:
        raise_soft_time_limit()
    except Exception:
        raise ValueError("a bad value") from None


def test_interruption_that_a_library_replaced_is_found_where_asked_for() -> None:
    moment = Moment()
    with pytest.raises(ValueError, match="a bad value") as caught:
        raise_what_replaces_any()
    assert isinstance(interruption_in(caught.value, moment), SoftTimeLimitExceeded)
    assert interruption_in(caught.value) is None
    try:
        raise_soft_time_limit()
    except SoftTimeLimitExceeded:
        moment = Moment()
        with pytest.raises(ValueError, match="another") as caught:
            raise ValueError("another")  # noqa: B904 - as a library would, in whose caller a limit is being handled
        assert interruption_in(caught.value, moment) is None


def test_ordinary_exception_is_no_interruption() -> None:
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


def test_task_notices_its_soft_time_limit_while_its_progress_is_encoded(app: Celery) -> None:
    result = app.tasks["tests.apps.interrupted.tell_progress"].delay()
    assert result.get(timeout=60) == "the task noticed"


def test_task_notices_its_soft_time_limit_while_it_decodes_a_result(app: Celery) -> None:
    app.backend.store_result("another", Endless("decode"), "SUCCESS")
    result = app.tasks["tests.apps.interrupted.read_another"].delay("another")
    assert result.get(timeout=60) == "the task noticed"
