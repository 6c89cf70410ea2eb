"""``rootcellar retry`` with a real worker: no task is sent twice, also if the command is killed and run again."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import psycopg
import pytest
import redis
from celery import Celery, chord, group

from rootcellar.history.repeats import new_id_of
from rootcellar.payloads.stamps import SENT_WITH
from rootcellar.records import TaskRecord
from rootcellar.stores import open_store
from rootcellar.testing.child_processes import poll
from tests import commands
from tests.workers import ROOT, Worker

#: as in tests/apps/again.py
RUNS, REPAIRED = "again:runs", "again:repaired"
PATIENCE = 90.0


class Place:
    """A broker, a database, a worker, and a client that does not know the tasks."""

    def __init__(self, broker: str, backend: str) -> None:
        self.broker = broker
        self.backend = backend
        self.notes = redis.Redis.from_url(broker)
        self.app = Celery(broker=broker, backend=f"rootcellar+{backend}", set_as_current=False)
        self.app.conf.result_extended = True

    def send(self, name: str, *args: Any, **options: Any) -> str:
        return self.app.send_task(f"tests.apps.again.{name}", list(args), **options).id

    def runs(self) -> list[str]:
        return [each.decode() for each in self.notes.lrange(RUNS, 0, -1)]

    def wait_for_failures(self, count: int) -> None:
        assert poll(lambda: self.count("FAILURE") == count, PATIENCE), f"{self.count('FAILURE')} of {count} failed"

    def store_without_arguments(self) -> None:
        store = open_store(self.backend)
        done = datetime.now(timezone.utc)
        store.put(TaskRecord(task_id="x", state="FAILURE", name="tests.apps.again.ship", queue="celery", done_at=done))
        store.close()

    def count(self, state: str) -> int:
        with psycopg.connect(self.backend) as connection:
            found = connection.execute("SELECT count(*) FROM celery_taskmeta WHERE status = %s", [state]).fetchone()
            return int(found[0]) if found else 0

    def record(self, task_id: str) -> dict[str, Any]:
        done = commands.run("show", task_id, "--backend", self.backend, "--json")
        assert done.status == 0, done.err
        return dict(json.loads(done.out))

    def retry(self, *words: str) -> commands.Ended:
        return commands.run("retry", *words, *self.where())

    def where(self) -> list[str]:
        return ["--backend", self.backend, "--broker", self.broker]


@pytest.fixture
def place(redis_url: str, postgres_url: str) -> Iterator[Place]:
    env = {"TEST_BROKER": redis_url, "TEST_BACKEND": postgres_url}
    with Worker("tests.apps.again", env=env, pool="threads", concurrency=4):
        place = Place(redis_url, postgres_url)
        yield place
        place.notes.close()


def test_retry_killed_half_way_and_run_again_sends_no_task_twice(place: Place) -> None:
    old = [place.send("charge", number, kwargs={"currency": "CHF"}) for number in range(250)]
    old += [place.send("ship", number) for number in range(250)]
    place.send("login", "ann", kwargs={"password": "correct horse"})
    chord([group([place.app.signature("tests.apps.again.ship", [1])])], app=place.app)(
        place.app.signature("tests.apps.again.total")
    )
    # the body of the chord fails too, and has no arguments
    place.wait_for_failures(503)
    place.store_without_arguments()
    before = Counter(place.runs())
    place.notes.set(REPAIRED, 1)

    started = [*commands.command("retry", "state:failed", "--yes"), *place.where()]
    with subprocess.Popen(started, cwd=ROOT, env=commands.environment(), stdout=subprocess.DEVNULL) as first:
        assert poll(lambda: len(place.runs()) > len(before) + 100, PATIENCE)
        first.kill()
    sent_before_kill = len(place.runs()) - before.total()
    again = place.retry("state:failed", "--yes", "--json")

    assert again.status == 1, again.err
    report = json.loads(again.out)
    refused = report["refused"]
    unsure = refused.get("unsure", 0)
    assert unsure <= 1
    assert refused.pop("retried") + unsure + len(report["sent"]) == 500
    assert refused == {"masked": 1, "no_arguments": 2, "chord": 1, **({"unsure": 1} if unsure else {})}
    assert 100 < sent_before_kill < 500
    assert poll(lambda: place.count("SUCCESS") >= 500 - unsure, PATIENCE)
    runs = Counter(place.runs()) - before
    assert set(runs.values()) == {1}
    assert set(runs) <= {new_id_of(task_id) for task_id in old}
    assert len(runs) >= 500 - unsure
    assert place.retry("state:failed", "--yes").out.count("again") == 0
    assert (Counter(place.runs()) - before).total() == len(runs)


def test_retried_task_gets_what_the_first_one_got_and_both_name_the_other(place: Place) -> None:
    old = place.send("what_arrived", 1, {"a": [2]}, headers={"tenant": "north", "traceparent": "00-1"}, priority=5)
    place.wait_for_failures(1)
    place.notes.set(REPAIRED, 1)

    done = place.retry(f"id:{old}", "--yes")

    assert done.status == 0, done.err
    new = new_id_of(old)
    assert poll(lambda: place.count("SUCCESS") == 1, PATIENCE)
    found = place.record(new)
    assert found["result"]["headers"]["tenant"] == "north"
    assert "traceparent" not in found["result"]["headers"]
    assert found["result"]["args"] == [1, {"a": [2]}]
    assert (found["result"]["priority"], found["result"]["queue"]) == (5, "celery")
    assert found["stamps"] == {"rootcellar_retry_of": old}
    assert place.record(old)["stamps"]["rootcellar_retried_as"] == new


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_plain_task_has_no_stamp_about_how_it_was_sent(
    broker: str, request: pytest.FixtureRequest, redis_url: str, postgres_url: str
) -> None:
    url = redis_url if broker == "redis" else request.getfixturevalue("rabbit_url")
    env = {"TEST_BROKER": url, "TEST_BACKEND": postgres_url, "TEST_NOTES": redis_url}
    with Worker("tests.apps.again", env=env, pool="threads", concurrency=1) as worker:
        app = Celery(broker=url, backend=f"rootcellar+{postgres_url}", set_as_current=False)
        plain, followed = "plain", "followed"
        app.send_task("tests.apps.again.ship", [1], task_id=plain)
        app.send_task("tests.apps.again.ship", [1], task_id=followed, link=app.signature("tests.apps.again.total"))
        for task_id in (plain, followed):
            worker.wait_for_log(rf"\[{task_id}\] raised unexpected: ValueError")
        app.AsyncResult(followed).get(propagate=False, timeout=PATIENCE)
        app.AsyncResult(plain).get(propagate=False, timeout=PATIENCE)

        store = open_store(postgres_url)
        found = store.get_many([plain, followed])
        store.close()
    stamps = found[followed].stamps
    assert found[plain].stamps is None
    assert stamps is not None
    assert json.loads(stamps.body) == {SENT_WITH: {"followed": True}}
    # it is not a stamp of the application
    assert SENT_WITH not in app.backend.get_task_meta(followed)
