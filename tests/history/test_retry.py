"""What a retry sends, what it refuses, and what it leaves behind when it is stopped."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Queue

from rootcellar.errors import BrokerUnavailable, StoreUnavailable
from rootcellar.history.history import History
from rootcellar.history.repeats import Refusal, new_id_of
from rootcellar.payloads import ARGS, KWARGS, STAMPS, Codec, codec_of, make_key
from rootcellar.payloads.stamps import RETRIED_AS, RETRY_OF, SENT_WITH
from rootcellar.records import ChordRecord, Payload, TaskRecord
from rootcellar.stores import Store, open_store
from rootcellar.testing.under_test import StoreUnderTest
from tests.history.stores import ALL, opened

DONE = datetime.now(timezone.utc) - timedelta(hours=1)
PLAIN = Codec()


def failure(task_id: str, args: Any = (1,), kwargs: Any = None, *, codec: Codec = PLAIN, **fields: Any) -> TaskRecord:
    """Return the record of a failed task; a payload as its arguments is stored as it is."""

    def encoded(value: Any, field: str) -> Any:
        return value if isinstance(value, Payload) else codec.encode(value, task_id=task_id, field=field)

    values: dict[str, Any] = {
        "state": "FAILURE",
        "name": "shop.charge",
        "queue": "payments",
        "result": Payload(b'{"exc_type": "ValueError", "exc_message": ["x"], "exc_module": "builtins"}'),
        "args": encoded(args if isinstance(args, Payload) else list(args), ARGS),
        "kwargs": encoded(kwargs or {}, KWARGS),
        "sent_at": DONE,
        "done_at": DONE,
        "expires_at": DONE + timedelta(days=2),
    }
    return TaskRecord(task_id=task_id, **{**values, **fields})


def stamped(task_id: str, **stamps: Any) -> Payload:
    return PLAIN.encode(stamps, task_id=task_id, field=STAMPS)


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("empty", broker="memory://", set_as_current=False)
    with app.connection_for_read() as connection:
        for queue in ("payments", "other"):
            connection.SimpleQueue(queue).clear()
    yield app
    app.close()


@pytest.fixture(params=ALL)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    under_test: StoreUnderTest = request.param
    with opened(under_test, request) as store:
        yield store


@pytest.fixture
def sqlite(tmp_path: Any) -> Iterator[Store]:
    store = open_store(f"sqlite:///{tmp_path}/results.sqlite3")
    yield store
    store.close()


def history_of(store: Store, codec: Codec = PLAIN) -> History:
    return History(store, codec, owns_store=False)


def messages(app: Celery, queue: str = "payments") -> list[Any]:
    """Return the messages that wait in a queue, and remove them."""
    with app.connection_for_read() as connection:
        waiting = connection.SimpleQueue(queue)
        return [waiting.get_nowait() for _ in range(waiting.qsize())]


def refused_only(store: Store, app: Celery, record: TaskRecord, codec: Codec = PLAIN) -> Refusal:
    """Return why the only task of a store is not sent again."""
    store.put(record)
    retry = history_of(store, codec).retry("", app=app)
    preview = retry.preview()
    assert list(retry.send()) == []
    assert messages(app) == []
    assert dict(retry.refused) == preview.refused
    ((refusal, count),) = preview.refused.items()
    assert (count, preview.sendable) == (1, 0)
    return refusal


def test_task_is_sent_once_and_linked_in_every_store(store: Store, app: Celery) -> None:
    store.put(failure("old", (7, {"a": [1.5]}), {"b": None}))
    store.put(failure("other", stamps=stamped("other", customer=17)))
    retry = history_of(store).retry("state:failed", app=app)

    sent = list(retry.send())

    assert {each.old_id: each.new_id for each in sent} == {"old": new_id_of("old"), "other": new_id_of("other")}
    found = {message.headers["id"]: message for message in messages(app)}
    assert found[new_id_of("old")].payload[:2] == [[7, {"a": [1.5]}], {"b": None}]
    assert found[new_id_of("other")].headers["stamps"] == {"customer": 17, RETRY_OF: "other"}
    old, new = (store.get(task_id) for task_id in ("other", new_id_of("other")))
    assert old is not None
    assert new is not None
    assert stamps_in(old) == {"customer": 17, RETRIED_AS: new.task_id}
    assert (old.state, old.queue, old.args is None) == ("FAILURE", "payments", False)
    assert stamps_in(new) == {"customer": 17, RETRY_OF: "other"}
    assert (new.state, new.name, new.queue, new.root_id) == ("SENT", "shop.charge", "payments", new.task_id)
    assert new.sent_at is not None
    assert new.expires_at is not None
    assert abs(new.expires_at - new.sent_at - timedelta(days=2)) < timedelta(seconds=1)

    again = history_of(store).retry("state:failed", app=app)
    assert list(again.send()) == []
    assert again.refused == {Refusal.RETRIED: 2}
    assert messages(app) == []


def test_task_that_succeeded_is_sent_again_in_every_store(store: Store, app: Celery) -> None:
    store.put(failure("fine", state="SUCCESS", result=Payload(b"17")))
    retry = history_of(store).retry("state:succeeded", app=app, without_headers=True)

    assert retry.preview().succeeded == 1
    assert [each.old_id for each in retry.send()] == ["fine"]

    (message,) = messages(app)
    record = store.get("fine")
    assert record is not None
    assert record.result is not None
    assert (message.headers["id"], record.state, record.result.body) == (new_id_of("fine"), "SUCCESS", b"17")
    assert stamps_in(record) == {RETRIED_AS: new_id_of("fine")}


def stamps_in(record: TaskRecord) -> Any:
    assert record.stamps is not None
    return json.loads(record.stamps.body)


def test_message_has_the_priority_the_headers_and_no_place_in_the_old_workflow(sqlite: Store, app: Celery) -> None:
    how = {"priority": 7, "headers": {"tenant": "north"}, "followed": True}
    sqlite.put(failure("old", stamps=stamped("old", **{SENT_WITH: how}), group_id="g", root_id="r", parent_id="p"))
    retry = history_of(sqlite).retry("state:failed", app=app)

    assert retry.preview().followed == 1
    list(retry.send())

    (message,) = messages(app)
    assert message.properties["priority"] == 7
    assert message.headers["tenant"] == "north"
    assert (message.headers["root_id"], message.headers["parent_id"]) == (new_id_of("old"), None)
    assert (message.headers["group"], message.headers["retries"]) == (None, 0)


def test_other_queue_can_be_given(sqlite: Store, app: Celery) -> None:
    sqlite.put(failure("old", queue=None))

    assert history_of(sqlite).retry("", app=app).preview().refused == {Refusal.NO_QUEUE: 1}
    list(history_of(sqlite).retry("", app=app, queue="other").send())

    assert len(messages(app, "other")) == 1


def test_types_of_typed_json_are_sent_as_they_were(sqlite: Store, app: Celery) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    sqlite.put(failure("old", (Decimal("1.10"), moment), codec=Codec(serializer="rootcellar-json")))

    list(history_of(sqlite, Codec(serializer="rootcellar-json")).retry("", app=app).send())

    (message,) = messages(app)
    assert message.decode()[0] == [Decimal("1.10"), moment]


@pytest.mark.parametrize("args", [[(1, 2)], [{5: "x"}], [{"a": [(1,)]}]])
def test_arguments_that_the_message_would_change_are_refused(args: Any, sqlite: Store, app: Celery) -> None:
    typed = Codec(serializer="rootcellar-json")
    record = failure("old", args, codec=typed)

    assert refused_only(sqlite, app, record, typed) is Refusal.NOT_PRESERVED

    app.conf.task_serializer = "pickle"
    list(history_of(sqlite, typed).retry("", app=app).send())
    (message,) = messages(app)
    assert message.content_type == "application/x-python-serialize"


def test_numbers_that_are_not_finite_are_sent(sqlite: Store, app: Celery) -> None:
    sqlite.put(failure("old", [float("nan"), float("inf"), b"\xff"], codec=Codec(serializer="rootcellar-json")))

    assert len(list(history_of(sqlite, Codec(serializer="rootcellar-json")).retry("", app=app).send())) == 1


KEYED = codec_of({"result_encryption_keys": make_key()})


@pytest.mark.parametrize(
    ("record", "refusal"),
    [
        (failure("a", state="STARTED", done_at=None), Refusal.UNFINISHED),
        (failure("a", name=None), Refusal.NO_NAME),
        (replace(failure("a"), args=None, kwargs=None), Refusal.NO_ARGUMENTS),
        (failure("a", kwargs={"password": "***"}), Refusal.MASKED),
        (failure("a", [["card *** of ann"]]), Refusal.MASKED),
        (failure("a", [{"***": 1}]), Refusal.MASKED),
        (failure("a", stamps=stamped("a", **{SENT_WITH: {"headers": {"token": "***"}}})), Refusal.MASKED),
        (failure("a", stamps=stamped("a", password="***")), Refusal.MASKED),
        (failure("a", stamps=stamped("a", **{SENT_WITH: {"chord": True}})), Refusal.CHORD),
        (failure("a", args=Payload(b'{"rootcellar.truncated": {"size": 9}}')), Refusal.TRUNCATED),
        (failure("a", stamps=stamped("a", **{"rootcellar.cut": {"kwargs": 9}})), Refusal.TRUNCATED),
        (failure("a", args=Payload(b'"(<object at 0x7f>,)"')), Refusal.AS_TEXT),
        (failure("a", args=Payload(b"\x80\x04.", "application/x-python-serialize", "binary")), Refusal.PICKLED),
        (failure("a", args=Payload(b"\x80\x04.", "application/x-celery-meta", "binary")), Refusal.PICKLED),
        (failure("a", args=Payload(b"17")), Refusal.UNREADABLE),
        (failure("a", kwargs=Payload(b"[1]")), Refusal.UNREADABLE),
        (failure("a", args=Payload(b"[1", "application/json")), Refusal.UNREADABLE),
    ],
    ids=lambda value: value.name.lower() if isinstance(value, Refusal) else "",
)
def test_task_is_refused(record: TaskRecord, refusal: Refusal, sqlite: Store, app: Celery) -> None:
    assert refused_only(sqlite, app, record) is refusal


def test_encrypted_arguments_are_sent_with_the_key_and_refused_without(sqlite: Store, app: Celery) -> None:
    sqlite.put(failure("a", ("secret",), codec=KEYED))

    assert history_of(sqlite).retry("", app=app).preview().refused == {Refusal.SEALED: 1}
    list(history_of(sqlite, KEYED).retry("", app=app).send())

    (message,) = messages(app)
    assert message.payload[0] == ["secret"]
    new = sqlite.get(new_id_of("a"))
    assert new is not None
    assert b"secret" not in (new.args.body if new.args else b"")


def test_task_that_ended_after_the_retry_was_made_is_not_sent(sqlite: Store, app: Celery) -> None:
    retry = history_of(sqlite).retry("", app=app)
    sqlite.put(failure("late", done_at=datetime.now(timezone.utc)))

    assert list(retry.send()) == []
    assert retry.preview().found == 0


def test_unfinished_task_is_sent_on_demand(sqlite: Store, app: Celery) -> None:
    sqlite.put(failure("lost", state="STARTED", done_at=None, started_at=DONE))

    sent = list(history_of(sqlite).retry("", app=app, unfinished=True, without_headers=True).send())

    assert [each.old_id for each in sent] == ["lost"]


@pytest.mark.parametrize("state", ["SENT", "STARTED", "SUCCESS", "FAILURE", "REJECTED", "REVOKED"])
def test_task_whose_headers_are_not_stored_is_sent_only_on_demand(state: str, sqlite: Store, app: Celery) -> None:
    is_known = state in ("FAILURE", "REJECTED", "REVOKED")
    ended = DONE if is_known or state == "SUCCESS" else None
    sqlite.put(failure("old", state=state, done_at=ended, started_at=DONE))

    preview = history_of(sqlite).retry("", app=app, unfinished=True).preview()
    assert preview.refused == ({} if is_known else {Refusal.HEADERS_UNKNOWN: 1})
    sent = history_of(sqlite).retry("", app=app, unfinished=True, without_headers=True).send()

    assert [each.old_id for each in sent] == ["old"]


def test_preview_ends_in_time_and_says_that_there_are_more(sqlite: Store, app: Celery) -> None:
    for number in range(5):
        sqlite.put(failure(f"t{number}"))
    retry = history_of(sqlite).retry("state:failed", app=app)

    assert (retry.preview(seconds=0).found, retry.preview(seconds=0).is_all) == (1, False)
    assert (retry.preview().found, retry.preview().is_all) == (5, True)


def test_preview_counts_tasks_that_the_filter_cannot_judge(sqlite: Store, app: Celery) -> None:
    sqlite.put(failure("sealed", ("secret",), codec=KEYED))
    sqlite.put(failure("open", ("secret",)))

    preview = history_of(sqlite).retry("args.0:secret", app=app).preview()

    assert (preview.found, preview.unread) == (1, 1)


def test_lost_part_of_a_chord_that_waits_is_refused(store: Store, app: Celery) -> None:
    store.begin_chord(ChordRecord(group_id="g", body=Payload(b"{}")))
    store.put(failure("lost", state="STARTED", done_at=None, started_at=DONE, group_id="g", group_index=0))
    store.put(failure("free", state="STARTED", done_at=None, started_at=DONE, group_id="other", group_index=0))

    retry = history_of(store).retry("", app=app, unfinished=True, without_headers=True)

    assert [each.old_id for each in retry.send()] == ["free"]
    assert retry.refused == {Refusal.OPEN_CHORD: 1}


def test_limit_stops_and_the_next_retry_goes_on(sqlite: Store, app: Celery) -> None:
    for number in range(5):
        sqlite.put(failure(f"t{number}"))

    first = list(history_of(sqlite).retry("state:failed", app=app, limit=2).send())
    rest = list(history_of(sqlite).retry("state:failed", app=app).send())

    assert (len(first), len(rest)) == (2, 3)
    assert len(messages(app)) == 5 == len({each.old_id for each in first + rest})


def test_stop_ends_after_the_task_that_is_being_sent(sqlite: Store, app: Celery) -> None:
    for number in range(5):
        sqlite.put(failure(f"t{number}"))
    stop = threading.Event()
    sent = []

    for each in history_of(sqlite).retry("state:failed", app=app).send(stop=stop):
        sent.append(each)
        stop.set()

    assert len(sent) == 1 == len(messages(app))


class Broken(Exception):
    """The process died."""


@pytest.mark.parametrize("dies_in", ["send", "put_sent"])
def test_task_of_an_interrupted_retry_is_unsure_until_its_record_exists(
    dies_in: str, sqlite: Store, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlite.put(failure("old"))

    def die(*_: Any) -> None:
        raise Broken

    with monkeypatch.context() as broken:
        if dies_in == "send":
            broken.setattr("rootcellar.history.sending.Sender.send", die)
        else:
            broken.setattr(type(sqlite), "put_sent", die)
        with pytest.raises(Broken):
            list(history_of(sqlite).retry("state:failed", app=app).send())

    was_sent = len(messages(app)) == 1
    assert was_sent == (dies_in == "put_sent")
    again = history_of(sqlite).retry("state:failed", app=app)
    assert list(again.send()) == []
    assert again.refused == {Refusal.UNSURE: 1}
    if was_sent:
        # its worker stores it
        sqlite.put(TaskRecord(task_id=new_id_of("old"), state="STARTED"))
        assert history_of(sqlite).retry("state:failed", app=app).preview().refused == {Refusal.RETRIED: 1}
    else:
        sent = list(history_of(sqlite).retry("state:failed", app=app, send_unsure=True).send())
        assert [each.new_id for each in sent] == [new_id_of("old")]
        assert len(messages(app)) == 1


def test_unsure_tasks_are_sent_by_one_of_two_retries_at_once(sqlite: Store, app: Celery) -> None:
    for number in range(20):
        task_id = f"t{number:02}"
        sqlite.put(failure(task_id, stamps=stamped(task_id, **{RETRIED_AS: new_id_of(task_id)})))
    first, second = (history_of(sqlite).retry("state:failed", app=app, send_unsure=True) for _ in range(2))

    sent = []
    for one in first.send():
        sent.append(one)
        if len(sent) == 5:
            sent += second.send()

    assert len(messages(app)) == 20 == len({each.old_id for each in sent})
    assert first.refused == {Refusal.CHANGED: 15}


def test_outage_of_the_store_after_sending_leaves_the_task_unsure(
    sqlite: Store, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlite.put(failure("old"))

    def fail(*_: Any) -> None:
        raise StoreUnavailable("gone", where="here", remedy="wait")

    with monkeypatch.context() as broken:
        broken.setattr(type(sqlite), "put_sent", fail)
        with pytest.raises(StoreUnavailable):
            list(history_of(sqlite).retry("state:failed", app=app).send())

    assert history_of(sqlite).retry("state:failed", app=app).preview().refused == {Refusal.UNSURE: 1}


def test_broker_out_of_reach_changes_nothing(sqlite: Store) -> None:
    sqlite.put(failure("old"))
    app = Celery("empty", broker="redis://127.0.0.1:1/0", set_as_current=False)

    with pytest.raises(BrokerUnavailable, match="cannot be reached"):
        list(history_of(sqlite).retry("state:failed", app=app).send())

    assert history_of(sqlite).retry("state:failed", app=app).preview().sendable == 1


def test_two_retries_at_once_send_each_task_once(store: Store, app: Celery) -> None:
    for number in range(20):
        store.put(failure(f"t{number:02}"))
    history = history_of(store)
    first, second = (history.retry("state:failed", app=app) for _ in range(2))

    sent = []
    for one in first.send():
        sent.append(one)
        if len(sent) == 5:
            sent += second.send()

    assert len(sent) == 20 == len({each.old_id for each in sent})
    assert len(messages(app)) == 20
    assert first.refused == {Refusal.CHANGED: 15}


def test_rabbitmq_without_the_queue_takes_no_message_and_the_task_can_be_sent_later(
    sqlite: Store, rabbit_url: str
) -> None:
    for number in range(3):
        sqlite.put(failure(f"t{number}"))
    sqlite.put(failure("fit", queue="there"))
    app = Celery("empty", broker=rabbit_url, set_as_current=False)
    with app.connection_for_write() as connection:
        waiting = connection.SimpleQueue("there")
        retry = history_of(sqlite).retry("state:failed", app=app)

        sent = list(retry.send())

        assert [each.old_id for each in sent] == ["fit"]
        assert retry.refused == {Refusal.NO_ROUTE: 3}
        assert waiting.get(timeout=20).headers["id"] == new_id_of("fit")
        connection.SimpleQueue("payments")
        later = list(history_of(sqlite).retry("state:failed", app=app).send())
    assert {each.old_id for each in later} == {"t0", "t1", "t2"}


def test_exchange_of_the_task_is_used_with_its_routing_key(sqlite: Store, rabbit_url: str) -> None:
    stamps = stamped("old", **{SENT_WITH: {"exchange": "media"}})
    sqlite.put(failure("old", queue="video.small", stamps=stamps))
    app = Celery("empty", broker=rabbit_url, set_as_current=False)
    with app.connection_for_write() as connection:
        videos = Queue("videos", Exchange("media", type="topic"), routing_key="video.*")
        with connection.SimpleQueue(videos) as waiting:
            assert len(list(history_of(sqlite).retry("", app=app).send())) == 1
            message = waiting.get(timeout=20)
            message.ack()

    assert message.headers["id"] == new_id_of("old")
    assert message.delivery_info["routing_key"] == "video.small"
