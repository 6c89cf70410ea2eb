"""The store that does not decide is stopped, frozen, slow, full or refuses: no task waits for it, and all is noted."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from rootcellar.errors import PayloadTooLarge, RootcellarError, StoreUnavailable
from rootcellar.records import TaskRecord
from rootcellar.stores import Store, StoreOptions, open_store
from rootcellar.stores.dual import DualStore, FixedPhases, Phase, mirror_breaker
from rootcellar.stores.dual.phases import STATE_KEY, UNMIRRORED_PREFIX
from rootcellar.stores.mirroring import Mirrored, fingerprint
from rootcellar.stores.shared_values import SharesValues
from rootcellar.testing.helpers import PATIENCE, able, in_threads, new_id, record, wait_until
from rootcellar.testing.memory import MemoryStore
from tests.helpers import HEAVY
from tests.servers import PostgresServer, RedisServer

#: how a server fails: the server and the URL that a test uses, and a context manager for the length of the failure
Failure = Callable[[PostgresServer, RedisServer], tuple[str, AbstractContextManager[None]]]


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A server that these tests may stop."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """A server that these tests may fill."""
    with RedisServer() as server:
        yield server


def stopped(postgres: PostgresServer, redis: RedisServer) -> tuple[str, AbstractContextManager[None]]:
    @contextmanager
    def fails() -> Iterator[None]:
        postgres.stop()
        try:
            yield
        finally:
            postgres.start()

    return postgres.create_database(), fails()


def frozen(postgres: PostgresServer, redis: RedisServer) -> tuple[str, AbstractContextManager[None]]:
    @contextmanager
    def fails() -> Iterator[None]:
        postgres.pause()
        try:
            yield
        finally:
            postgres.resume()

    return postgres.create_database(), fails()


def slow(postgres: PostgresServer, redis: RedisServer) -> tuple[str, AbstractContextManager[None]]:
    url = postgres.create_database()
    database = url.rpartition("/")[2].partition("?")[0]

    @contextmanager
    def fails() -> Iterator[None]:
        postgres.execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(2); RETURN NEW; END'",
            database,
        )
        tables = ("celery_taskmeta", "celery_taskmeta_shared")
        for table in tables:
            postgres.execute(
                f"CREATE TRIGGER slow BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION slow()", database
            )
        try:
            yield
        finally:
            for table in tables:
                postgres.execute(f"DROP TRIGGER slow ON {table}", database)

    return url, fails()


def refusing(postgres: PostgresServer, redis: RedisServer) -> tuple[str, AbstractContextManager[None]]:
    def set_read_only(is_on: bool) -> None:
        postgres.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'on' if is_on else 'off'}")
        postgres.execute("SELECT pg_reload_conf()")

    @contextmanager
    def fails() -> Iterator[None]:
        set_read_only(True)
        try:
            yield
        finally:
            set_read_only(False)

    return postgres.create_database(), fails()


def full(postgres: PostgresServer, redis: RedisServer) -> tuple[str, AbstractContextManager[None]]:
    @contextmanager
    def fails() -> Iterator[None]:
        with redis.client() as client:
            client.config_set("maxmemory", "1")
            try:
                yield
            finally:
                client.config_set("maxmemory", "0")

    return redis.url, fails()


FAILURES: list[Failure] = [stopped, slow, refusing, full, *([frozen] if HEAVY else [])]


def enter(store: Store, phase: Phase, epoch: int) -> None:
    """Write the phase, as the coordinator does."""
    text = json.dumps({"phase": int(phase), "epoch": epoch, "direction": "forth"})
    able(store, SharesValues).share(STATE_KEY, text)


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__)
def test_results_are_stored_and_noted_while_the_target_fails(
    failure: Failure, postgres: PostgresServer, redis: RedisServer, tmp_path: Path
) -> None:
    url, fails = failure(postgres, redis)
    source, target = open_store(f"sqlite:///{tmp_path}/source.sqlite3"), open_store(url)
    dual = open_store(source.url, StoreOptions(transport_options={"migrate_to": url}))
    assert isinstance(dual, DualStore)
    for each in (source, target):
        enter(each, Phase.DUAL, 2)
    try:
        before = record()
        dual.put(before)
        assert target.get(before.task_id) == before
        with fails:
            during = [record() for _ in range(40)]
            in_threads(4, lambda number: [dual.put(one) for one in during[number::4]])
            assert dual.to_target.is_open
            assert source.get_many([one.task_id for one in during]) == {one.task_id: one for one in during}
            assert dual.get(during[-1].task_id) == during[-1]
            noted = {UNMIRRORED_PREFIX + one.task_id for one in during}
            wait_until(lambda: set(able(source, SharesValues).shared(UNMIRRORED_PREFIX)) == noted, "the notes")
        wait_until(lambda: not dual.to_target.is_open, "the end of the failure")
        after = record()
        dual.put(after)
        assert target.get(after.task_id) == after
        ids = [key.removeprefix(UNMIRRORED_PREFIX) for key in able(source, SharesValues).shared(UNMIRRORED_PREFIX)]
        assert set(ids) == {one.task_id for one in during}
        missing = set(ids) - target.get_many(ids).keys()
        # what a slow or a frozen server was sent before nobody waited any more
        assert len(ids) - len(missing) <= (4 if failure in (slow, frozen) else 0)
        able(target, Mirrored).copy(list(source.get_many(ids).values()))
        assert {task_id: fingerprint(one) for task_id, one in target.get_many(ids).items()} == {
            one.task_id: fingerprint(one) for one in during
        }
    finally:
        for each in (dual, source, target):
            each.close()


def test_results_are_stored_and_noted_while_the_source_fails_in_target_first(
    redis: RedisServer, tmp_path: Path
) -> None:
    url = redis.database_url(5)
    source, target = open_store(url), open_store(f"sqlite:///{tmp_path}/target.sqlite3")
    dual = open_store(source.url, StoreOptions(transport_options={"migrate_to": target.url}))
    assert isinstance(dual, DualStore)
    enter(target, Phase.TARGET_FIRST, 4)
    with redis.client() as client:
        client.config_set("maxmemory", "1")
    during = [record(state=state) for state in ("SUCCESS", "FAILURE", "SUCCESS")]
    for one in during:
        assert dual.put(one).written
    assert dual.to_source.is_open
    noted = {UNMIRRORED_PREFIX + one.task_id for one in during}
    wait_until(lambda: set(able(target, SharesValues).shared(UNMIRRORED_PREFIX)) == noted, "the notes")
    with redis.client() as client:
        client.config_set("maxmemory", "0")
    wait_until(lambda: not dual.to_source.is_open, "the end of the failure")
    after = record()
    dual.put(after)
    assert source.get(after.task_id) == after
    for each in (dual, source, target):
        each.close()


class Failing(MemoryStore):
    """A store whose calls fail or wait as a test says."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.error: RootcellarError | None = None
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.mirrored: list[str] = []

    def mirror(self, one: TaskRecord) -> Any:
        self.mirrored.append(one.task_id)
        self.goes_on.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        return super().mirror(one)

    def share(self, *args: Any, **kwargs: Any) -> Any:
        self.goes_on.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        return super().share(*args, **kwargs)


@pytest.fixture
def target() -> Failing:
    return Failing(f"memory://{new_id()}")


@pytest.fixture
def dual(target: Failing) -> Iterator[DualStore]:
    store = DualStore(MemoryStore(f"memory://{new_id()}"), target, FixedPhases(Phase.DUAL))
    yield store
    target.goes_on.set()
    store.close()


def test_only_the_first_results_wait_for_a_target_that_hangs(dual: DualStore, target: Failing) -> None:
    target.goes_on.clear()
    dual.to_target._timeout = 0.05
    for _ in range(20):
        assert dual.put(record()).written
    assert len(target.mirrored) == 1
    assert dual.unmirrored.count == 20


def test_open_breaker_is_closed_by_a_probe(dual: DualStore, target: Failing) -> None:
    target.error = StoreUnavailable("stopped")
    dual.put(record())
    dual.put(record())
    assert len(target.mirrored) == 1
    target.error = None
    wait_until(lambda: not dual.to_target.is_open, "the probe")
    one = record()
    dual.put(one)
    assert target.get(one.task_id) == one


def test_breaker_that_opens_again_and_again_waits_longer(
    dual: DualStore, target: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A probe may be answered although each result fails; each of them would wait for a second."""
    target.error = StoreUnavailable("stopped")
    breaker = dual.to_target
    monkeypatch.setattr(breaker, "_works", lambda: True)
    monkeypatch.setattr(mirror_breaker, "REOPENED_SECONDS", (0.0, 0.02, 3600.0))
    for _ in range(3):
        assert not breaker.is_open
        dual.put(record())
        switch = breaker._switches.get()
        if switch.reopened < 2:
            wait_until(lambda: not breaker.is_open, "the probe")
    assert breaker.is_open
    assert breaker._pause(switch, 1) == 3600.0
    breaker.close()
    dual.put(record())
    wait_until(lambda: not breaker.is_open, "the probe of a breaker that begins again")
    monkeypatch.setattr(mirror_breaker, "STABLE_SECONDS", 0.0)
    dual.put(record())
    assert breaker._switches.get().reopened == 0, "it was closed for long"


def test_target_that_answers_late_stays_out_of_use(dual: DualStore, target: Failing) -> None:
    """A probe must be answered in time, or the next result would wait again."""
    dual.to_target._timeout = 0.05
    target.error = StoreUnavailable("stopped")
    dual.put(record())
    target.error = None
    target.goes_on.clear()
    probed = threading.Event()
    works = dual.to_target._works

    def noted() -> bool:
        answer = works()
        probed.set()
        return answer

    dual.to_target._works = noted  # type: ignore[method-assign]
    assert probed.wait(PATIENCE)
    assert dual.to_target.is_open


def test_refused_record_does_not_open_the_breaker(dual: DualStore, target: Failing) -> None:
    target.error = PayloadTooLarge("too large")
    one = record()
    assert dual.put(one).written
    assert not dual.to_target.is_open
    assert dual.unmirrored.waiting() == [one.task_id]


def test_each_result_is_noted_once(dual: DualStore, target: Failing) -> None:
    target.error = StoreUnavailable("stopped")
    one = record(state="FAILURE")
    for _ in range(3):
        dual.put(one)
    assert dual.unmirrored.waiting() == [one.task_id]
    assert dual.unmirrored.count == 3


def test_failing_target_does_not_hide_a_late_verb(
    dual: DualStore, target: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A verb that is too old must begin again, and is not taken for a failure of the target."""
    put = MemoryStore.put
    now = time.monotonic

    def late(self: MemoryStore, *args: Any, **kwargs: Any) -> Any:
        stored = put(self, *args, **kwargs)
        monkeypatch.setattr(time, "monotonic", lambda: now() + 3600)
        return stored

    monkeypatch.setattr(MemoryStore, "put", late)
    with pytest.raises(StoreUnavailable, match="took more than 10 s"):
        dual.put(record())
    monkeypatch.setattr(time, "monotonic", now)
    assert target.mirrored == []
    assert not dual.to_target.is_open


def test_forgetting_fails_if_the_target_cannot_be_reached(
    dual: DualStore, target: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Failing, *args: Any) -> Any:
        raise StoreUnavailable("stopped")

    one = record()
    dual.put(one)
    with monkeypatch.context() as broken:
        broken.setattr(Failing, "get_many", fail)
        with pytest.raises(StoreUnavailable):
            dual.delete([one.task_id])
    assert dual.delete([one.task_id]) == 1
    assert dual.get(one.task_id) is None
    assert target.burials_of([one.task_id]).keys() == {one.task_id}
