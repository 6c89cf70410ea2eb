"""A serializer for each task, which Celery itself does not have."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context

from rootcellar.payloads import NotEncodable
from rootcellar.records import TYPED_JSON


def nothing() -> None:
    """A task."""


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Celery]:
    app = Celery(broker="memory://", backend=f"rootcellar+sqlite:///{tmp_path}/results.sqlite3", set_as_current=False)
    app.conf.result_accept_content = ["json", "rootcellar-json", "msgpack", "pickle"]
    for serializer in ("rootcellar-json", "msgpack", "pickle", "nonesuch"):
        app.task(name=serializer, result_serializer=serializer)(nothing)
    app.task(name="settings")(nothing)
    yield app
    app.backend.store.close()


def store(app: Celery, task: str, result: Any, state: str = "SUCCESS", **more: Any) -> Any:
    request = Context(id="an-id", task=task, args=(1,), kwargs={}, **more)
    app.backend.store_result("an-id", result, state, request=request)
    return app.backend.store.get("an-id").result


@pytest.mark.parametrize(
    ("task", "value", "content_type"),
    [
        ("rootcellar-json", (1, Decimal(2)), TYPED_JSON),
        ("msgpack", b"\x00\xff", "application/x-msgpack"),
        ("pickle", {1: {2}}, "application/x-python-serialize"),
        ("settings", [1], "application/json"),
        ("a task that this process does not know", [1], "application/json"),
    ],
)
def test_result_has_the_serializer_of_its_task(app: Celery, task: str, value: Any, content_type: str) -> None:
    assert store(app, task, value).content_type == content_type
    assert app.AsyncResult("an-id").get() == value


@pytest.mark.parametrize("task", ["rootcellar-json", "msgpack", "pickle", "nonesuch", "settings"])
def test_failure_is_stored_with_any_serializer(app: Celery, task: str) -> None:
    store(app, task, ValueError("oh", 7), "FAILURE")
    found = app.AsyncResult("an-id")
    with pytest.raises(ValueError, match="oh") as caught:
        found.get()
    assert caught.value.args == ("oh", 7)


def test_unknown_serializer_fails_the_task(app: Celery) -> None:
    with pytest.raises(NotEncodable, match="nonesuch"):
        store(app, "nonesuch", [1])


def test_chord_part_has_the_serializer_of_its_task(app: Celery) -> None:
    request = Context(
        id="an-id", task="rootcellar-json", group="a-group", group_index=0, chord={"task": "x"}, ignore_result=True
    )
    app.backend.on_chord_part_return(request, "SUCCESS", (1, {2}))
    (part,) = app.backend.store.chord_parts("a-group")
    assert part.result.content_type == TYPED_JSON
    assert app.backend.codec.decode(part.result, task_id="an-id") == (1, {2})


def test_app_reads_what_it_writes_by_default(tmp_path: Path) -> None:
    app = Celery(broker="memory://", backend=f"rootcellar+sqlite:///{tmp_path}/results.sqlite3", set_as_current=False)
    app.conf.result_serializer = "rootcellar-json"
    assert store(app, "any", (1,)).content_type == TYPED_JSON
    assert app.AsyncResult("an-id").get() == (1,)
    app.backend.store.close()


def test_pickle_is_used_only_if_it_is_named(app: Celery) -> None:
    assert store(app, "settings", ValueError("x"), "FAILURE").body[:1] == b"{"
    assert pickle.loads(store(app, "pickle", (1,)).body) == (1,)  # noqa: S301 - our own


def test_arguments_and_exceptions_stay_plain_json(app: Celery) -> None:
    app.conf.update(result_serializer="rootcellar-json", result_extended=True)
    assert store(app, "rootcellar-json", ValueError("x", (1,)), "FAILURE").body.startswith(
        b'{"exc_type": "ValueError", '
    )
    record = app.backend.store.get("an-id")
    assert (record.args.body, record.kwargs.body) == (b"[1]", b"{}")
    assert b'"exc_message": ["x", {"__rootcellar__"' in record.result.body
