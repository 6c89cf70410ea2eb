"""Redaction, size limits and the blob store with a real worker, over PostgreSQL, encrypted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from celery import Celery, chord

from rootcellar.payloads import make_key
from rootcellar.testing.conformance_app import make_app
from rootcellar.testing.harness import APP
from tests.servers import PostgresServer, RedisServer
from tests.workers import Worker

WAIT = 30.0
LARGE = "x" * 30_000


class Setup(NamedTuple):
    app: Celery
    worker: Worker
    blobs: Path

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self.app.tasks[f"conformance.{name}"].delay(*args, **kwargs)

    def sign(self, name: str, *args: Any) -> Any:
        return self.app.tasks[f"conformance.{name}"].s(*args)

    @property
    def count(self) -> int:
        return len(list(self.blobs.glob("??/*")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("blobs")


@pytest.fixture(scope="module")
def setup(postgres_server: PostgresServer, redis_server: RedisServer, folder: Path) -> Iterator[Setup]:
    url = postgres_server.create_database()
    redis_server.flush()
    conf = {
        "result_extended": True,
        "result_encryption_keys": make_key("k"),
        "result_max_size": "20KB",
        "result_too_large": "spill",
        "result_blob_url": str(folder),
    }
    env = {"TEST_BROKER": redis_server.url, "TEST_BACKEND": f"rootcellar+{url}", "TEST_CONF": json.dumps(conf)}
    app = make_app(redis_server.url, f"rootcellar+{url}", **conf)
    with Worker(APP, env=env, concurrency=2) as worker:
        yield Setup(app, worker, folder)
    app.backend.store.close()
    app.close()
    postgres_server.drop_database(url)


def test_large_results_and_their_chord_come_back(setup: Setup) -> None:
    before = setup.count
    result = setup.call("echo", LARGE)
    assert result.get(timeout=WAIT) == LARGE
    assert "rootcellar.truncated" in result.args
    assert setup.count == before + 1
    result.forget()
    assert setup.count == before
    whole = chord([setup.sign("echo", LARGE), setup.sign("echo", "small")], setup.sign("echo"))()
    assert whole.get(timeout=WAIT) == [LARGE, "small"]


def test_client_and_chord_get_unmasked_results(setup: Setup) -> None:
    value = {"user": "me", "token": "t0p-s3cr3t", "card": "4111 1111 1111 1111"}
    assert setup.call("echo", value).get(timeout=WAIT) == value
    echo = setup.app.signature("conformance.echo")
    header = [echo.clone((value,)), echo.clone((value,))]
    assert chord(header)(echo.clone()).get(timeout=WAIT) == [value, value]


def test_raised_secret_is_masked(setup: Setup) -> None:
    failed = setup.call("fail", message="no entry: password=hidden-word")
    with pytest.raises(ValueError, match=r"no entry: password=\*\*\*"):
        failed.get(timeout=WAIT)
    assert "hidden-word" not in failed.traceback


def test_refused_result_is_stored_as_a_failure(setup: Setup) -> None:
    """A worker with a lower limit refuses large results."""
    conf = {"result_max_size": 1_000, "task_default_queue": "strict"}
    app = make_app(setup.app.conf.broker_url, setup.app.conf.result_backend, **conf)
    env = {
        "TEST_BROKER": setup.app.conf.broker_url,
        "TEST_BACKEND": setup.app.conf.result_backend,
        "TEST_CONF": json.dumps(conf),
    }
    with Worker(APP, env=env, concurrency=1, pool="threads"):
        result = app.tasks["conformance.echo"].delay(LARGE)
        with pytest.raises(Exception, match="30,002 bytes as application/json, of 1,000 that it may have") as caught:
            result.get(timeout=WAIT)
        assert type(caught.value).__name__ == "ResultTooLarge"
        assert result.state == "FAILURE"
    app.backend.store.close()
    app.close()
