"""Writes for which a worker's main process does not wait."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from rootcellar.errors import RecordRefused, StoreUnavailable
from rootcellar.maintenance.deferred_writes import DeferredWrites, DeferredWritesConfig
from rootcellar.maintenance.signals import Signal
from rootcellar.support.backoff import Backoff
from rootcellar.support.outages import Outage

PATIENCE = 30.0
FOR_EVER = float("inf")


class Server:
    """A function that fails while the test wants it."""

    def __init__(self) -> None:
        self.is_away = threading.Event()
        self.tried = threading.Semaphore(0)
        self.done: list[str] = []

    def store(self, name: str) -> str:
        self.tried.release()
        if self.is_away.is_set():
            raise StoreUnavailable("away", where="a server")
        self.done.append(name)
        return name


@pytest.fixture
def server() -> Server:
    return Server()


def new_writes(max_wait: float) -> DeferredWrites:
    return DeferredWrites(Backoff(1, 1), Outage(), DeferredWritesConfig(max_wait=max_wait))


@pytest.fixture
def writes() -> Iterator[DeferredWrites]:
    found = new_writes(PATIENCE)
    yield found
    assert found.stop(PATIENCE)


@pytest.fixture
def hasty_writes() -> Iterator[DeferredWrites]:
    """Writes whose callers do not wait."""
    found = new_writes(0.0)
    yield found
    assert found.stop(PATIENCE)


def test_quick_write_is_returned(writes: DeferredWrites, server: Server) -> None:
    assert writes.run(lambda: server.store("one"), "store one", FOR_EVER) == "one"
    assert writes.submit(lambda: server.store("two"), "store two", FOR_EVER)
    assert writes.pending() == []


def test_quick_error_is_raised(writes: DeferredWrites) -> None:
    def refuse() -> None:
        raise RecordRefused("too large")

    for call in (writes.run, writes.submit):
        with pytest.raises(RecordRefused, match="too large"):
            call(refuse, "store it", FOR_EVER)
    assert writes.pending() == []


def test_write_ends_at_its_limit_of_retries(writes: DeferredWrites, server: Server) -> None:
    server.is_away.set()
    with pytest.raises(StoreUnavailable, match="away"):
        writes.run(lambda: server.store("one"), "store one", 2)
    assert writes.signals.count(Signal.FAILED) == 2, "and the third failure was raised"


def test_submitted_writes_are_done_in_order_after_an_outage(
    hasty_writes: DeferredWrites, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.is_away.set()
    names = ["one", "two", "three"]
    for name in names:
        assert not hasty_writes.submit(lambda name=name: server.store(name), f"store {name}", FOR_EVER)
    hasty_writes.signals.wait(Signal.FAILED, 3)
    assert hasty_writes.pending() == ["store one", "store two", "store three"]
    server.is_away.clear()
    hasty_writes.signals.wait_for_done(3)
    assert server.done == names
    assert hasty_writes.pending() == []
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert warnings[0].startswith("Could not store one: away [a server]")
    assert "Trying again until it works" in warnings[0]
    assert warnings[1].startswith("The result store works again")


def test_abandoned_write_is_not_done_later(hasty_writes: DeferredWrites, server: Server) -> None:
    """It would be too late: the caller already got an error."""
    server.is_away.set()
    assert not hasty_writes.submit(lambda: server.store("first"), "store first", FOR_EVER)
    with pytest.raises(StoreUnavailable, match="could not store late soon enough"):
        hasty_writes.run(lambda: server.store("late"), "store late", FOR_EVER)
    assert hasty_writes.pending() == ["store first"]
    server.is_away.clear()
    assert not hasty_writes.submit(lambda: server.store("last"), "store last", FOR_EVER) or server.done
    hasty_writes.signals.wait_for_done(2)
    assert server.done == ["first", "last"]


def test_later_error_of_a_write_is_logged(hasty_writes: DeferredWrites, caplog: pytest.LogCaptureFixture) -> None:
    def refuse() -> None:
        raise RecordRefused("too large")

    may_begin = threading.Event()
    assert not hasty_writes.submit(lambda: may_begin.wait(PATIENCE), "wait", FOR_EVER)
    assert not hasty_writes.submit(refuse, "store it", FOR_EVER)
    may_begin.set()
    hasty_writes.signals.wait_for_done(2)
    assert "Gave up: could not store it: too large" in caplog.text


def test_stop_ends_the_retries_of_a_write(hasty_writes: DeferredWrites, server: Server) -> None:
    server.is_away.set()
    assert not hasty_writes.submit(lambda: server.store("one"), "store one", FOR_EVER)
    hasty_writes.signals.wait(Signal.FAILED)
    assert hasty_writes.stop(PATIENCE)
    server.is_away.clear()
    assert hasty_writes.pending() == ["store one"]
    assert server.done == []
