"""Plain SQL in psql reads stored results, and shows what people expect."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import datetime
from urllib.parse import unquote, urlsplit

import pytest

from rootcellar.testing.conformance_app import make_app
from rootcellar.testing.harness import APP
from tests.servers import PostgresServer, RedisServer
from tests.workers import Worker

LAST_DAY = (
    "SELECT task_id, name, status, date_done, result FROM celery_taskmeta"
    " WHERE date_done > NOW() - INTERVAL '24 hours' ORDER BY date_done DESC;"
)
FAILURES = (
    "SELECT task_id, name, traceback FROM celery_taskmeta WHERE status = 'FAILURE' ORDER BY date_done DESC LIMIT 10;"
)


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer, redis_server: RedisServer) -> Iterator[str]:
    """The URL of a database with the results of some tasks."""
    url = postgres_server.create_database()
    redis_server.flush()
    conf = {"result_extended": True}
    env = {
        "TEST_BROKER": redis_server.url,
        "TEST_BACKEND": f"rootcellar+{url}",
        "TEST_CONF": json.dumps(conf),
    }
    app = make_app(redis_server.url, f"rootcellar+{url}", **conf)
    with Worker(APP, env=env, concurrency=2):
        tasks = app.tasks
        sent = [
            tasks["conformance.echo"].apply_async(({"größe": [1, 2.5, None], "ice": "🧊"},), task_id="json"),
            tasks["conformance.value"].apply_async(("not a number",), task_id="nan"),
            tasks["conformance.value"].apply_async(("NUL",), task_id="nul"),
            tasks["conformance.add"].apply_async((2, 3), task_id="number"),
            tasks["conformance.raise_"].apply_async(("own",), task_id="failed"),
            tasks["conformance.fail"].apply_async(kwargs={"message": 'it\'s "bad"'}, task_id="failed too"),
        ]
        for one in sent:
            one.get(timeout=30, propagate=False)
        members = app.GroupResult("a-group", sent[:2])
        members.save()
    app.backend.store.close()
    app.close()
    yield url
    postgres_server.drop_database(url)


def psql(url: str, statement: str) -> list[dict[str, str]]:
    """Run a statement in psql; return the rows as it prints them."""
    program = shutil.which("psql")
    assert program, "psql is installed with the server: on Debian, apt-get install postgresql"
    parts = urlsplit(url)
    command = [program, "--csv", "-v", "ON_ERROR_STOP=1", "-h", parts.hostname or "", "-p", str(parts.port)]
    command += ["-U", parts.username or "", "-d", parts.path.lstrip("/")]
    env = {**os.environ, "PGPASSWORD": unquote(parts.password or ""), "PGCLIENTENCODING": "UTF8"}
    done = subprocess.run(command, input=statement, env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return list(csv.DictReader(io.StringIO(done.stdout)))


def test_sql_lists_results_of_the_last_day(place: str) -> None:
    rows = psql(place, LAST_DAY)
    assert list(rows[0]) == ["task_id", "name", "status", "date_done", "result"]
    moments = [datetime.fromisoformat(row["date_done"]) for row in rows]
    assert moments == sorted(moments, reverse=True)
    found = {row["task_id"]: row for row in rows}
    assert {row["name"].partition(".")[0] for row in rows} == {"conformance"}
    assert found["json"]["result"] == '{"größe": [1, 2.5, null], "ice": "🧊"}'
    assert (found["number"]["status"], found["number"]["result"]) == ("SUCCESS", "5")
    assert found["nan"]["result"] == '"NaN"'
    assert found["nul"]["result"] == '"␀"'
    assert found["failed"]["status"] == "FAILURE"
    shown = json.loads(found["failed"]["result"])
    assert (shown["exc_type"], shown["exc_message"]) == ("Own", ["text", 2, {"key": [None, 1.5]}])


def test_sql_lists_failures_with_tracebacks(place: str) -> None:
    rows = psql(place, FAILURES)
    assert {row["task_id"] for row in rows} == {"failed", "failed too"}
    for row in rows:
        assert row["name"] in ("conformance.raise_", "conformance.fail")
        assert row["traceback"].startswith("Traceback (most recent call last):\n")
    ends = {row["task_id"]: row["traceback"].rstrip().splitlines()[-1] for row in rows}
    assert ends["failed"].endswith("Own: ('text', 2, {'key': [None, 1.5]})")
    assert ends["failed too"] == 'ValueError: it\'s "bad"'


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT count(*) AS n FROM celery_taskmeta WHERE result::jsonb IS NOT NULL", "6"),
        ("SELECT result->>'ice' AS ice FROM celery_taskmeta WHERE task_id = 'json'", "🧊"),
        ("SELECT args->0->'größe'->>1 AS arg FROM celery_taskmeta WHERE task_id = 'json'", "2.5"),
        ("SELECT kwargs->>'message' AS message FROM celery_taskmeta WHERE task_id = 'failed too'", 'it\'s "bad"'),
        ("SELECT result->>'exc_type' AS type FROM celery_taskmeta WHERE task_id = 'failed too'", "ValueError"),
        ("SELECT max(retries) AS retries FROM celery_taskmeta", "0"),
        ("SELECT DISTINCT queue FROM celery_taskmeta", "celery"),
        ("SELECT count(*) AS n FROM celery_taskmeta WHERE worker LIKE '%@%'", "6"),
        (
            "SELECT count(*) AS n FROM celery_taskmeta WHERE date_sent <= date_started AND date_started <= date_done",
            "6",
        ),
        ("SELECT taskset_id FROM celery_groupmeta WHERE date_done > NOW() - INTERVAL '1 hour'", "a-group"),
        ("SELECT result->0->>0 AS id FROM celery_groupmeta", "a-group"),
        (
            "SELECT status, count(*) AS n FROM celery_taskmeta GROUP BY status ORDER BY n DESC LIMIT 1",
            "SUCCESS",
        ),
    ],
)
def test_sql_answers_usual_questions(place: str, statement: str, expected: str) -> None:
    (row,) = psql(place, statement)
    assert next(iter(row.values())) == expected
