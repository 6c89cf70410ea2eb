"""Stored results stay after the worker, the broker and the server were stopped and restarted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import psycopg
import redis
from celery import Celery

from tests.commands import run
from tests.servers import PostgresServer, RedisServer

TASKS = 2_000


def test_two_thousand_results_survive_restarts(
    new_postgres: Callable[..., PostgresServer], new_redis: Callable[..., RedisServer]
) -> None:
    postgres, broker = new_postgres(), new_redis()
    url = postgres.create_database()
    backend = "rootcellar+" + url
    ended = run("demo", "--once", "--keep", "-n", str(TASKS), "--backend", backend, "--broker", broker.url)
    assert (ended.status, ended.err) == (0, ""), ended
    said = re.search(r"(\d+) tasks in [\d.]+ s: (\d+) SUCCESS, (\d+) FAILURE, (\d+) REVOKED, (\d+) whose", ended.out)
    assert said, ended.out
    sent, *by_state, ignored = map(int, said.groups())
    assert sent >= TASKS
    assert "All are as expected" in ended.out

    # the demo stopped its worker; now broker and server are stopped
    redis.Redis.from_url(broker.url).flushall()
    broker.kill()
    postgres.restart()

    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT task_id, status, result::text FROM celery_taskmeta").fetchall()
    stored = {task_id: (status, result) for task_id, status, result in rows}
    counted = [sum(status == state for status, _ in stored.values()) for state in ("SUCCESS", "FAILURE", "REVOKED")]
    assert counted == by_state
    assert len(stored) == sent - ignored

    shown = json.loads(run("history", "--backend", backend, "--limit", str(2 * TASKS), "--json").out)
    assert {task["task_id"]: task["state"] for task in shown} == {key: state for key, (state, _) in stored.items()}

    app = Celery("reader", backend=backend, set_as_current=False)
    for task_id, (status, text) in stored.items():
        result = app.AsyncResult(task_id)
        value = result.get(timeout=30, propagate=False)
        assert result.state == status
        if status == "SUCCESS":
            assert value == json.loads(text)
        else:
            assert list(value.args) == list(json.loads(text)["exc_message"])
