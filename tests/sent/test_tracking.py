"""A client records the tasks that it sends, and a task that waits in a queue differs from an unknown id."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.exceptions import TimeoutError
from celery.signals import before_task_publish

from rootcellar.backend.sent import BATCH, SentTasks
from rootcellar.errors import ConfigurationError, RecordRefused, ResultHeld, StoreUnavailable
from rootcellar.history.filters import Clock
from rootcellar.history.holds import place_hold
from rootcellar.records import SENT, TaskRecord
from rootcellar.stores import open_store
from rootcellar.support.backoff import Backoff
from rootcellar.support.outages import Outage
from rootcellar.testing.conformance_app import make_app
from rootcellar.testing.gate import Gate
from rootcellar.testing.harness import Harness
from rootcellar.testing.helpers import PATIENCE, new_id, wait_until
from tests.servers import RedisServer
from tests.workers import ROOT

TRACKED = {"result_track_sent": True}
NAME = "conformance.add"


@contextmanager
def client(broker: str, backend: str, **conf: Any) -> Iterator[Celery]:
    """A client without a worker."""
    app = make_app(broker, f"rootcellar+{backend}", **{**TRACKED, **conf})
    with closing(app.backend.store), closing(app):
        yield app


@pytest.fixture
def app(redis_url: str, postgres_url: str) -> Iterator[Celery]:
    with client(redis_url, postgres_url) as app:
        yield app


def stored(app: Celery, task_id: str) -> TaskRecord | None:
    """Return what is stored of a task, after all that this process has sent is recorded."""
    assert app.backend._sent.flush(PATIENCE)
    found: TaskRecord | None = app.backend.store.get(task_id)
    return found


def add(app: Celery) -> Any:
    return app.tasks[NAME]


def _nothing() -> None:
    """What a task does that no worker runs."""


def test_sent_task_has_its_name_queue_time_and_relations(app: Celery) -> None:
    before = datetime.now(timezone.utc)
    result = add(app).apply_async((1, 2), root_id="root", parent_id="parent")
    found = stored(app, result.id)
    assert found is not None
    assert (found.state, found.name, found.queue, found.retries) == (SENT, NAME, "celery", 0)
    assert (found.root_id, found.parent_id) == ("root", "parent")
    assert found.sent_at is not None
    assert before <= found.sent_at <= datetime.now(timezone.utc)
    assert found.expires_at is not None
    assert timedelta(hours=23) < found.expires_at - before < timedelta(hours=25)
    assert (found.args, found.kwargs, found.worker, found.started_at, found.done_at) == (None,) * 5


def test_queued_task_is_pending_and_differs_from_an_unknown_id(app: Celery) -> None:
    result = add(app).delay(1, 2)
    assert stored(app, result.id) is not None
    assert (result.state, result.ready(), result.info, result.name) == ("PENDING", False, None, NAME)
    assert app.backend.task_result_exists(result.id)
    assert not app.backend.task_result_exists(new_id())
    with pytest.raises(TimeoutError):
        result.get(timeout=0.01)


def test_queued_task_is_sent_if_the_user_wants_that(redis_url: str, postgres_url: str) -> None:
    with client(redis_url, postgres_url, result_sent_state=True) as app:
        unknown = app.AsyncResult(new_id())
        for _ in range(20):
            result = add(app).delay(1, 2)
            assert (result.state, result.ready(), unknown.state) == (SENT, False, "PENDING"), "also before it is stored"
        assert stored(app, result.id) is not None
        assert (app.AsyncResult(result.id).state, result.ready(), result.info) == (SENT, False, None)
        with pytest.raises(TimeoutError):
            result.get(timeout=0.01)


def test_eta_of_a_sent_task_is_known_and_postpones_its_expiry(redis_url: str, postgres_url: str) -> None:
    with client(redis_url, postgres_url, result_sent_state=True) as app:
        eta = datetime.now(timezone.utc) + timedelta(days=40)
        result = add(app).apply_async((1, 2), eta=eta)
        found = stored(app, result.id)
        assert found is not None
        assert found.expires_at == eta + timedelta(days=1)
        assert result.info == {"eta": eta.isoformat()}


def test_arguments_of_a_sent_task_are_masked(redis_url: str, postgres_url: str) -> None:
    with client(redis_url, postgres_url, result_extended=True) as app:
        result = app.send_task(NAME, (1,), {"password": "hunter2", "order": 3})
        found = stored(app, result.id)
        assert found is not None
        assert found.args is not None
        assert found.kwargs is not None
        assert (json.loads(found.args.body), json.loads(found.kwargs.body)) == ([1], {"password": "***", "order": 3})


@pytest.mark.parametrize("protocol", [1, 2])
def test_task_that_is_sent_by_name_is_recorded(redis_url: str, postgres_url: str, protocol: int) -> None:
    with client(redis_url, postgres_url, task_protocol=protocol, result_extended=True) as app:
        result = app.send_task("elsewhere.pack", (1,), queue="parcels")
        found = stored(app, result.id)
        assert found is not None
        assert (found.state, found.name, found.queue) == (SENT, "elsewhere.pack", "parcels")
        assert found.args is not None
        assert json.loads(found.args.body) == [1]


def test_attribute_of_a_task_overrides_the_setting(redis_url: str, postgres_url: str) -> None:
    for setting in (True, False):
        with client(redis_url, postgres_url, result_track_sent=setting) as app:
            task = app.task(name=new_id(), result_track_sent=not setting)(_nothing)
            assert (stored(app, task.delay().id) is not None) is not setting
            assert (stored(app, add(app).delay(1, 2).id) is not None) is setting


def test_variable_of_the_environment_tracks_and_shows_sent_tasks(
    redis_url: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROOTCELLAR_TRACK_SENT", "true")
    monkeypatch.setenv("ROOTCELLAR_SENT_STATE", "true")
    with client(redis_url, postgres_url, result_track_sent=None) as app:
        result = add(app).delay(1, 2)
        assert stored(app, result.id) is not None
        assert result.state == SENT


def test_wrong_setting_is_refused(redis_url: str, postgres_url: str) -> None:
    for conf in ({"result_track_sent": "perhaps"}, {"result_sent_state": 7}, {"result_history": "all"}):
        with pytest.raises(ConfigurationError, match=next(iter(conf))), client(redis_url, postgres_url, **conf):
            pass


def test_task_that_ignores_its_result_is_not_recorded(app: Celery) -> None:
    silent = app.task(name=new_id(), ignore_result=True)(_nothing)
    for result in (add(app).apply_async((1, 2), ignore_result=True), silent.delay()):
        assert stored(app, result.id) is None


def test_task_is_recorded_whose_signal_sends_another_one(app: Celery) -> None:
    inner: list[str] = []

    def audit(sender: Any = None, **_: Any) -> None:
        if not inner:
            inner.append(new_id())
            add(app).apply_async((1, 1), task_id=inner[0])

    before_task_publish.connect(audit)
    try:
        outer = add(app).delay(1, 2).id
    finally:
        before_task_publish.disconnect(audit)
    assert [found is not None and found.state for found in (stored(app, outer), stored(app, inner[0]))] == [SENT, SENT]


def test_eager_task_is_not_recorded(app: Celery) -> None:
    result = add(app).apply((1, 2))
    assert result.get() == 3
    assert stored(app, result.id) is None


def test_message_that_the_broker_refuses_is_not_recorded(app: Celery, redis_url: str) -> None:
    task_id = new_id()
    with pytest.raises(Exception, match="serializ"):
        add(app).apply_async((object(), 2), task_id=task_id)
    assert stored(app, task_id) is None
    with closing(make_app(redis_url, None)) as other:
        assert stored(app, add(other).delay(1, 2).id) is None, "another app's next message is not recorded"
    result = add(app).delay(1, 2)
    assert stored(app, result.id) is not None, "the next one of the same thread is recorded"


def test_forgotten_task_is_not_recorded_later(app: Celery) -> None:
    for _ in range(30):
        result = add(app).delay(1, 2)
        result.forget()
        assert stored(app, result.id) is None


def test_record_that_is_held_is_stored_later_although_it_was_to_be_forgotten(app: Celery) -> None:
    clock = Clock(datetime.now(timezone.utc), timezone.utc)
    place_hold(app.backend.store, f"task:{NAME}", clock, reason="audit", by="ann")
    # no round trip of its own: the record still waits
    result = add(app).delay(1, 2)
    with pytest.raises(ResultHeld):
        result.forget()
    assert stored(app, result.id) is not None


def test_record_of_a_worker_is_never_replaced(app: Celery) -> None:
    for state, done_at in (("STARTED", None), ("SUCCESS", datetime.now(timezone.utc))):
        there = TaskRecord(task_id=new_id(), state=state, done_at=done_at, worker="celery@host")
        app.backend.store.put(there)
        add(app).apply_async((1, 2), task_id=there.task_id)
        assert stored(app, there.task_id) == there


def test_threads_of_two_apps_record_into_their_own_stores(app: Celery, redis_url: str, sqlite_url: str) -> None:
    with client(redis_url, sqlite_url) as other:
        sent: dict[Celery, list[str]] = {app: [], other: []}

        def send(mine: Celery) -> None:
            sent[mine].extend(add(mine).delay(1, 2).id for _ in range(50))

        threads = [threading.Thread(target=send, args=(mine,)) for mine in (app, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for mine, ids in sent.items():
            assert stored(mine, ids[-1]) is not None
            assert mine.backend.store.get_many([*sent[app], *sent[other]]).keys() == set(ids)


@pytest.fixture
def sqlite_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('sent')}/results.sqlite3"


SENDS_AND_ENDS = """
import sys
from rootcellar.testing.conformance_app import make_app
app = make_app(sys.argv[1], sys.argv[2], result_track_sent=True)
print(app.tasks["conformance.add"].delay(1, 2).id)
"""


def test_process_that_ends_at_once_has_recorded_its_tasks(redis_url: str, sqlite_url: str) -> None:
    command = [sys.executable, "-c", SENDS_AND_ENDS, redis_url, f"rootcellar+{sqlite_url}"]
    task_id = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    with closing(open_store(sqlite_url)) as store:
        found = store.get(task_id)
        assert found is not None
        assert found.state == SENT


def test_outage_does_not_delay_sending_and_loses_no_record(
    new_redis: Callable[..., RedisServer], redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = new_redis()
    with client(redis_url, server.url) as app:
        first = add(app).delay(1, 2)
        assert stored(app, first.id) is not None
        server.kill()
        ids = [add(app).delay(1, number).id for number in range(20)]
        wait_until(lambda: "Could not record sent tasks" in caplog.text, "the outage is logged")
        assert not app.backend._sent.flush(PATIENCE), "the end of the process does not wait for an outage"
        server.start()
        wait_until(lambda: len(app.backend.store.get_many(ids)) == 20, "they are recorded later")
        assert caplog.text.count("Could not record sent tasks") == 1


# -- with workers ------------------------------------------------------------------------------------------------------


def test_worker_replaces_the_record_and_keeps_the_queue_and_the_time(harness: Harness, gate: Gate) -> None:
    result = harness.tasks.hold_started.delay(gate.port, "over")
    gate.await_arrival()
    sent = stored(harness.app, result.id)
    assert sent is not None
    assert sent.state == "STARTED", "the client may have written before or after the worker"
    gate.let_through()
    assert result.get(timeout=PATIENCE) == "over"
    found = stored(harness.app, result.id)
    assert found is not None
    assert (found.state, found.queue, found.sent_at) == ("SUCCESS", sent.queue, sent.sent_at)


def test_waiting_task_is_recorded_while_the_worker_is_busy(harness: Harness, gate: Gate) -> None:
    running = [harness.tasks.hold.delay(gate.port) for _ in range(harness.slots)]
    for _ in running:
        gate.await_arrival()
    waiting = harness.tasks.add.delay(1, 2)
    found = stored(harness.app, waiting.id)
    assert found is not None
    assert (found.state, found.started_at) == (SENT, None)
    for _ in running:
        gate.let_through()
    assert waiting.get(timeout=PATIENCE) == 3
    for result in running:
        result.get(timeout=PATIENCE)


def test_canvas_ends_as_without_tracking(harness: Harness) -> None:
    tasks = harness.tasks
    results = [
        chain(tasks.add.s(1, 2), tasks.add.s(3), tasks.add.s(4)).delay(),
        group(tasks.add.s(number, 1) for number in range(20)).delay(),
        chord([tasks.add.s(number, 1) for number in range(5)], tasks.total.s()).delay(),
        tasks.retry_until.delay(2),
    ]
    assert [result.get(timeout=PATIENCE) for result in results] == [10, list(range(1, 21)), 15, 2]
    # Celery sends the next task of a chain before it stores the result of this one
    assert results[0].parent.get(timeout=PATIENCE) == 6
    ids = [results[0].id, results[0].parent.id, *(child.id for child in results[1].results), results[2].id]
    assert {found.state for found in harness.backend.store.get_many(ids).values()} == {"SUCCESS"}
    retried = stored(harness.app, results[3].id)
    assert retried is not None
    assert (retried.state, retried.retries) == ("SUCCESS", 2)


def test_later_member_of_a_chain_is_recorded_by_the_worker(harness: Harness, gate: Gate) -> None:
    """It is sent to a queue that no worker reads."""
    result = chain(harness.tasks.add.s(1, 2), harness.tasks.add.s(3).set(queue="nobody")).delay()
    assert result.parent.get(timeout=PATIENCE) == 3
    found = wait_until(lambda: harness.backend.store.get(result.id), "the worker records the second task")
    assert (found.state, found.queue, found.parent_id, found.root_id) == (
        SENT,
        "nobody",
        result.parent.id,
        result.parent.id,
    )


# -- the queue of a process --------------------------------------------------------------------------------------------


class _Place:
    """A store that waits until the test lets it go on, and refuses or fails as the test wants."""

    def __init__(self) -> None:
        self.calls: list[Sequence[TaskRecord]] = []
        self.may_go = threading.Event()
        self.arrived = threading.Event()
        self.refused: set[str] = set()

    def put(self, records: Sequence[TaskRecord]) -> None:
        self.arrived.set()
        assert self.may_go.wait(PATIENCE)
        if self.refused & {record.task_id for record in records} and any(record.args for record in records):
            raise RecordRefused("too large")
        if "never" in {record.task_id for record in records}:
            raise RecordRefused("no such id")
        self.calls.append(records)


@contextmanager
def queue_over(place: _Place, app: Celery) -> Iterator[SentTasks]:
    tasks = SentTasks(
        place.put, app.backend.recorder, Backoff(1, 1), Outage(), is_on=True, task_named=lambda name: None
    )
    try:
        yield tasks
    finally:
        place.may_go.set()
        tasks.flush(PATIENCE)


def send(tasks: SentTasks, task_id: str, **headers: Any) -> None:
    tasks.on_sent("a.task", {"id": task_id, "task": "a.task", "retries": 0, **headers}, ([], {}, {}), "celery")


def test_group_is_recorded_in_few_round_trips(app: Celery) -> None:
    place = _Place()
    with queue_over(place, app) as tasks:
        send(tasks, "first")
        assert place.arrived.wait(PATIENCE)
        for number in range(1_000):
            send(tasks, f"member {number}")
        assert tasks.waiting("first") is not None, "it is under way"
        assert tasks.waiting("member 999") is not None
        place.may_go.set()
        assert tasks.flush(PATIENCE)
        assert [len(call) for call in place.calls] == [1, BATCH, 1_000 - BATCH]
        assert tasks.waiting("first") is None


def test_task_that_is_run_again_or_ignores_its_result_is_not_recorded(app: Celery) -> None:
    place = _Place()
    place.may_go.set()
    with queue_over(place, app) as tasks:
        send(tasks, "again", retries=1)
        send(tasks, "ignored", ignore_result=True)
        send(tasks, "new")
        assert tasks.flush(PATIENCE)
        assert [record.task_id for call in place.calls for record in call] == ["new"]


def test_refused_record_does_not_keep_others_from_being_stored(
    redis_url: str, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    place = _Place()
    place.refused = {"large"}
    with client(redis_url, postgres_url, result_extended=True) as app, queue_over(place, app) as tasks:
        for task_id in ("one", "large", "never", "two"):
            send(tasks, task_id)
        place.may_go.set()
        assert tasks.flush(PATIENCE)
        found = {record.task_id: record for call in place.calls for record in call}
        assert found.keys() == {"one", "large", "two"}
        assert found["large"].args is None, "it is stored without its arguments"
        assert found["two"].args is not None
    assert "Task never is not recorded as sent" in caplog.text


def test_arguments_wait_only_up_to_a_limit_in_bytes(
    redis_url: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rootcellar.backend.sent.MAX_BYTES", 2_500)
    place = _Place()
    with client(redis_url, postgres_url, result_extended=True) as app, queue_over(place, app) as tasks:

        def send_large(task_id: str) -> None:
            headers = {"id": task_id, "task": "a.task", "retries": 0}
            tasks.on_sent("a.task", headers, (["x" * 1_000], {}, {}), "celery")

        for task_id in ("one", "two", "three"):
            send_large(task_id)
        place.may_go.set()
        assert tasks.flush(PATIENCE)
        send_large("four")
        assert tasks.flush(PATIENCE)
        found = {record.task_id: record.args is not None for call in place.calls for record in call}
        assert found == {"one": True, "two": True, "three": False, "four": True}


def test_forgotten_task_leaves_the_queue(app: Celery) -> None:
    place = _Place()
    with queue_over(place, app) as tasks:
        send(tasks, "under way")
        assert place.arrived.wait(PATIENCE)
        send(tasks, "waits")
        tasks.drop("waits")
        assert tasks.waiting("waits") is None
        threading.Timer(0.05, place.may_go.set).start()
        tasks.drop("under way")
        assert place.may_go.is_set(), "it waits until the record is stored, so that a deletion comes after it"
        assert [record.task_id for call in place.calls for record in call] == ["under way"]


def test_process_gives_up_nothing_in_an_outage_but_does_not_wait(app: Celery) -> None:
    fails = True

    def put(records: Sequence[TaskRecord]) -> None:
        if fails:
            raise StoreUnavailable("gone")
        place.put(records)

    place = _Place()
    place.may_go.set()
    tasks = SentTasks(put, app.backend.recorder, Backoff(1, 1), Outage(), is_on=True, task_named=lambda name: None)
    send(tasks, "a")
    assert not tasks.flush(PATIENCE)
    assert tasks.waiting("a") is not None
    fails = False
    wait_until(lambda: place.calls, "it is stored when the store is back")
    assert tasks.flush(PATIENCE)
