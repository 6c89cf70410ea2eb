"""The generator of history: always the same for a seed, realistic, and the same content in every store and table."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psycopg
import pytest
from celery import Celery

from benchmarks.history import failing
from benchmarks.history.__main__ import main
from benchmarks.history.catalogue import BROKEN, TASKS, WORKERS
from benchmarks.history.runs import Period, Run, microseconds, runs
from benchmarks.history.through_store import record_of
from rootcellar.history.grouping.grouping import Grouper
from rootcellar.history.grouping.in_app import Application
from rootcellar.records import TaskRecord
from rootcellar.stores import open_store

END = datetime(2026, 11, 28, 12, tzinfo=timezone.utc)
ROWS = 30_000
PERIOD = Period(rows=ROWS, days=30, end=END, seed=7)


@pytest.fixture(scope="module")
def found() -> list[Run]:
    return list(runs(PERIOD))


def generate(url: str, *more: str, rows: int = 300) -> None:
    arguments = ["--rows", str(rows), "--url", url, "--seed", "3", "--end", END.isoformat(), *more]
    assert main(arguments) == 0


def expected(rows: int = 300) -> dict[str, Run]:
    return {run.task_id: run for run in runs(Period(rows=rows, days=30, end=END, seed=3))}


def test_period_has_exactly_as_many_runs_as_asked_each_with_its_own_id(found: list[Run]) -> None:
    assert len(found) == ROWS == len({run.task_id for run in found})


def test_same_seed_gives_the_same_runs_and_another_seed_others(found: list[Run]) -> None:
    assert list(runs(PERIOD)) == found
    assert next(runs(Period(rows=ROWS, days=30, end=END, seed=8))) != found[0]


def test_history_has_60_tasks_in_5_queues_with_the_workers_of_their_queue(found: list[Run]) -> None:
    assert len(TASKS) == 60
    assert len({run.name for run in found}) > 55
    assert {run.queue for run in found} == set(WORKERS)
    assert all(run.worker is None or run.worker in WORKERS[run.queue] for run in found)


def test_more_tasks_are_sent_by_day_than_by_night(found: list[Run]) -> None:
    hours = Counter(run.sent // 3_600_000_000 % 24 for run in found)

    assert min(hours[hour] for hour in (10, 11, 14, 15)) > 3 * max(hours[hour] for hour in (0, 1, 4, 5))


def test_deployment_breaks_one_task_for_three_hours(found: list[Run]) -> None:
    broken = [run for run in found if run.failure_group == failing.group_of(failing.BROKEN, BROKEN)]

    deployed = microseconds(PERIOD.deployed)
    assert {run.name for run in broken} == {BROKEN.name}
    assert all(0 <= (run.started or 0) - deployed < 4 * 3_600_000_000 for run in broken)
    during = [run for run in found if run.name == BROKEN.name and 0 <= run.sent - deployed < 3 * 3_600_000_000]
    assert len(broken) > len(during) / 2 > 5


def test_tracebacks_have_several_depths_and_chains(found: list[Run]) -> None:
    texts = [run.traceback for run in found if run.traceback]

    assert len({text.count("  File ") for text in texts}) >= 5
    assert any(text.count("Traceback (most recent call last)") == 3 for text in texts)
    assert any("[Previous line repeated" in text for text in texts)
    assert not any("\x01" in text or "%(" in text for text in texts if "psycopg" not in text)


def test_every_failure_has_the_group_that_a_worker_would_compute(found: list[Run]) -> None:
    grouper = Grouper(Application())
    failures = [run for run in found if run.state == "FAILURE"]

    for run in failures:
        computed = grouper.group(json.loads(run.result or ""), run.traceback, run.name).group
        assert computed == run.failure_group, f"{run.name}: {run.result}"
    assert len({run.failure_group for run in failures}) > 30


def test_workflows_and_retries_are_among_the_runs(found: list[Run]) -> None:
    by_id = {run.task_id: run for run in found}
    children = [run for run in found if run.children]
    groups = Counter(run.group_id for run in found if run.group_id)

    assert children
    for run in children:
        child = by_id[json.loads(run.children or "")[0][0][0]]
        assert (child.parent_id, child.root_id) == (run.task_id, run.root_id)
    assert len(groups) > 50
    assert max(groups.values()) > 10
    assert {run.retries for run in found} == {0, 1, 2, 3}


def test_unfinished_runs_are_those_at_the_end_and_those_of_lost_workers(found: list[Run]) -> None:
    for run in found:
        assert run.sent <= microseconds(END)
        assert (run.done is None) == (run.state in ("SENT", "STARTED", "RETRY"))
        assert run.done is None or run.sent <= (run.started or run.sent) <= run.done <= microseconds(END)
        assert (run.failure_group is None) == (run.state != "FAILURE")


@pytest.fixture(params=["sqlite", "mysql", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/results.sqlite3"
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


def test_store_has_every_run_as_its_record(store_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    generate(store_url)

    store = open_store(store_url)
    records = {record.task_id: record for record in store.scan(limit=1_000)}
    store.close()
    assert records == {task_id: record_of(run) for task_id, run in expected().items()}
    assert "300 rows in " in capsys.readouterr().out


def test_copy_into_a_table_with_rows_keeps_its_indexes(postgres_url: str) -> None:
    generate(postgres_url)
    before = indexes(postgres_url)

    assert main(["--rows", "50", "--url", postgres_url, "--seed", "4"]) == 0

    assert indexes(postgres_url) == before
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT count(*) FROM celery_taskmeta").fetchone() == (350,)


def test_copy_leaves_the_indexes_that_the_schema_creates(postgres_url: str) -> None:
    store = open_store(postgres_url)
    store.put(TaskRecord(task_id="a", state="SUCCESS"))
    before = indexes(postgres_url)
    store.delete(["a"])
    store.close()

    generate(postgres_url)

    assert indexes(postgres_url) == before


def indexes(url: str) -> list[Any]:
    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'celery_taskmeta' ORDER BY 1"
        ).fetchall()


def test_celery_reads_runs_from_its_own_table(postgres_url: str) -> None:
    generate(postgres_url, "--layout", "celery")

    app = Celery("reader", set_as_current=False)
    app.conf.result_backend = f"db+{postgres_url.replace('postgresql://', 'postgresql+psycopg://')}"
    app.conf.result_extended = True
    stored = {task_id: run for task_id, run in expected().items() if run.state != "SENT"}
    others = [run for run in stored.values() if run.state != "SUCCESS"]
    assert others
    for run in [*others, *[*stored.values()][::10]]:
        meta = app.backend.get_task_meta(run.task_id)
        assert (meta["status"], meta["name"], meta["retries"]) == (run.state, run.name, run.retries)
        assert (meta["args"], meta["kwargs"]) == (json.loads(run.args), json.loads(run.kwargs))
        assert meta["traceback"] == run.traceback
        if run.state == "SUCCESS":
            assert meta["result"] == json.loads(run.result or "null")
        elif run.state == "FAILURE":
            assert json.loads(run.result or "")["exc_type"] in repr(meta["result"])
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT count(*) FROM celery_taskmeta").fetchone() == (len(stored),)


def test_celerys_table_elsewhere_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", f"sqlite:///{tmp_path}/x.sqlite3", "--layout", "celery"]) == 2
    assert "only PostgreSQL" in capsys.readouterr().err
