"""`rootcellar maintain` as a user runs it: status, records, rights, the loop, and a run that is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import date
from pathlib import Path

import psycopg
import pytest

from rootcellar.maintenance.upkeep.jobs import JobsPart
from rootcellar.stores import Store, open_store
from rootcellar.stores.jobs import Jobs
from tests.commands import command, environment, run, run_here, run_on_terminal
from tests.helpers import PATIENCE, now, record, wait_until
from tests.maintenance.upkept import (
    GIGABYTE,
    TABLE,
    invalid,
    invalid_unique_index,
    maintain,
    on_server,
    snapshot,
    with_dead_rows,
)
from tests.servers import PostgresServer

PARTS = ["partitions", "cleanup", "counts", "holders", "vacuum", "indexes", "growth", "jobs"]


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store]:
    with closing(open_store(postgres_url)) as found:
        found.check()
        # the server must not do by itself what a test waits for
        on_server(postgres_url, f"ALTER TABLE {TABLE} SET (autovacuum_vacuum_threshold = 1000000)")
        yield found


@pytest.fixture
def jobs(store: Store) -> Jobs:
    found = store.ability(Jobs)
    assert found is not None
    return found


def test_command_reports_every_part_and_changes_nothing(jobs: Jobs, postgres_url: str) -> None:
    status, parts = maintain(postgres_url)
    assert (status, list(parts)) == (0, PARTS)
    assert jobs.jobs() == {}
    assert jobs.sizes(date(2020, 1, 1)) == []


def test_command_that_acts_is_on_record(store: Store, jobs: Jobs, postgres_url: str) -> None:
    invalid_unique_index(store, postgres_url)
    assert maintain(postgres_url)[0] == 1
    on_server(postgres_url, "DELETE FROM celery_taskmeta")
    status, parts = maintain(postgres_url, "--apply", "--disk", "100GB")
    assert (status, parts["indexes"]["repaired"]) == (0, ["rebuilt one_state"])
    assert parts["growth"]["limit_bytes"] == 100 * GIGABYTE
    assert jobs.jobs()["maintain"].succeeded_at is not None
    assert jobs.sizes(date(2020, 1, 1)) != []


def test_part_that_fails_does_not_stop_the_others(jobs: Jobs, postgres_url: str) -> None:
    on_server(postgres_url, f"DROP TABLE {TABLE}_size")
    status, parts = maintain(postgres_url, "--apply")
    assert status == 1
    assert parts["growth"]["level"] == "failed"
    assert parts["vacuum"]["level"] == parts["jobs"]["level"] == "ok"
    assert jobs.jobs()["maintain"].has_failed


def test_line_is_printed_for_each_part(store: Store, postgres_url: str) -> None:
    ended = run_here("maintain", "-b", postgres_url, "--apply")
    assert ended.status == 0, ended
    assert [line.split()[:2] for line in ended.out.splitlines()] == [["ok", name] for name in PARTS]


def test_lines_fit_a_terminal(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.sqlite3"
    with closing(open_store(url)) as store:
        store.check()
    assert run_here("maintain", "--apply", "-b", url).status == 0
    shown = run_on_terminal("maintain", "-b", url, columns=60)
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in shown.out.splitlines()]
    assert len(lines) > len(run_here("maintain", "-b", url).out.splitlines()), "no line was wrapped"
    assert all(line and line == line.rstrip() and len(line) <= 60 for line in lines), lines
    assert all(re.match(r"[a-z]+ +[a-z]+ +\S|\s{23}\S", line) for line in lines), lines


@pytest.mark.parametrize("options", [["--disk", "much"], ["--every", "soon"], ["--transaction-age", "x"]])
def test_wrong_use_has_status_2(options: list[str], tmp_path: Path) -> None:
    ended = run_here("maintain", "-b", f"sqlite:///{tmp_path}/x.sqlite3", *options)
    assert ended.status == 2
    assert options[0] in ended.err


def test_store_that_deletes_by_itself_is_refused(redis_url: str) -> None:
    ended = run_here("maintain", "-b", redis_url)
    assert ended.status == 1
    assert "needs no maintenance" in ended.err


def test_rights_of_a_worker_name_what_is_missing(store: Store, postgres_url: str) -> None:
    with_dead_rows(store, postgres_url, 1_000)
    invalid_unique_index(store, postgres_url)
    on_server(postgres_url, "CREATE ROLE upkeep_worker LOGIN PASSWORD 'pw'")
    try:
        granted = run_here("schema", "grants", "upkeep_worker", "-b", postgres_url)
        on_server(postgres_url, granted.out)
        scheme, _, rest = postgres_url.partition("://")
        with snapshot(postgres_url):
            status, parts = maintain(f"{scheme}://upkeep_worker:pw@{rest.rpartition('@')[2]}", "--apply")
        assert status == 1
        levels = ["ok", "ok", "ok", "refused", "refused", "refused", "ok", "ok"]
        assert {name: part["level"] for name, part in parts.items()} == dict(zip(PARTS, levels, strict=True))
        assert "owner" in parts["vacuum"]["text"]
        assert "owner" in parts["indexes"]["text"]
        assert parts["holders"]["advice"] == ["GRANT pg_read_all_stats TO upkeep_worker: then all sessions can be seen"]
    finally:
        on_server(postgres_url, "DROP OWNED BY upkeep_worker", "DROP ROLE upkeep_worker")


@contextmanager
def looping(url: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command("maintain", "-b", url, "--loop", "--json", *options),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_loop_acts_again_until_a_signal(number: signal.Signals, store: Store, postgres_url: str) -> None:
    with looping(postgres_url, "--every", "0.05s") as process:
        assert process.stdout is not None
        for _ in range(3):
            found = json.loads(process.stdout.readline())
            assert found["applied"]
            assert [part["part"] for part in found["parts"]] == PARTS
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 128 + number
        assert "Traceback" not in err


def test_signal_ends_a_long_pause_at_once(store: Store, postgres_url: str) -> None:
    with looping(postgres_url, "--every", "1h") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM


def test_loop_goes_on_after_an_outage(new_postgres: Callable[..., PostgresServer]) -> None:
    server = new_postgres()
    url = server.create_database()
    with closing(open_store(url)) as store:
        store.check()
    with looping(url, "--every", "0.1s") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["ok"]
        server.stop()
        server.start()
        with closing(open_store(url)) as store:
            store.put(record(expires_at=now()))
            wait_until(lambda: not store.scan(), "a run after the outage")
        assert process.poll() is None


def test_killed_run_is_seen_and_run_again(store: Store, jobs: Jobs, postgres_url: str) -> None:
    invalid_unique_index(store, postgres_url)
    on_server(postgres_url, "DELETE FROM celery_taskmeta")
    rebuild = (
        "pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'REINDEX%' AND state = 'active'"
    )
    with psycopg.connect(postgres_url) as old:
        # the rebuild waits for this transaction
        old.execute("SELECT * FROM celery_taskmeta")
        process = subprocess.Popen(
            command("maintain", "-b", postgres_url, "--apply"), env=environment(), stdout=subprocess.DEVNULL
        )
        waits = f"SELECT {rebuild} AND wait_event_type = 'Lock'"
        wait_until(lambda: on_server(postgres_url, waits) != [], "the rebuild")
        os.kill(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)
        on_server(postgres_url, f"SELECT pg_terminate_backend(pid), {rebuild}")
        wait_until(lambda: on_server(postgres_url, f"SELECT {rebuild}") == [], "the end of the rebuild")
    assert jobs.jobs()["maintain"].is_open
    assert invalid(postgres_url) != []
    on_server(postgres_url, "UPDATE celery_taskmeta_job SET started_at = started_at - interval '2 days'")
    assert "has not ended" in JobsPart(jobs).report().text
    assert maintain(postgres_url, "--apply")[0] == 0
    assert invalid(postgres_url) == []
    assert not jobs.jobs()["maintain"].is_open


def test_interrupted_rebuild_ends_on_the_server(store: Store, jobs: Jobs, postgres_url: str) -> None:
    invalid_unique_index(store, postgres_url)
    on_server(postgres_url, "DELETE FROM celery_taskmeta")
    rebuild = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'REINDEX%'"
    with psycopg.connect(postgres_url) as old:
        # the rebuild waits for this transaction
        old.execute("SELECT * FROM celery_taskmeta")
        process = subprocess.Popen(
            command("maintain", "-b", postgres_url, "--apply"), env=environment(), stdout=subprocess.DEVNULL
        )
        wait_until(lambda: on_server(postgres_url, f"{rebuild} AND wait_event_type = 'Lock'") != [], "the rebuild")
        process.terminate()
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM
        wait_until(lambda: on_server(postgres_url, rebuild) == [], "the end of the rebuild")
    assert jobs.jobs()["maintain"].note == "interrupted"


def test_expired_results_are_deleted_and_held_ones_stay(store: Store, postgres_url: str) -> None:
    for name in ("shop.pay", "shop.mail"):
        store.put(record(name=name, expires_at=now()))
    assert run_here("hold", "add", "task:shop.pay", "--reason", "audit", "-b", postgres_url).status == 0
    assert maintain(postgres_url)[1]["cleanup"]["expired"] == 2
    cleaned = maintain(postgres_url, "--apply")[1]["cleanup"]
    assert (cleaned["deleted"], cleaned["held"]) == (1, 1)
    assert [each.name for each in store.scan()] == ["shop.pay"]


def test_rules_of_the_environment_are_followed(
    store: Store,
    postgres_url: str,
) -> None:
    rule = json.dumps([{"task": "shop.*", "keep": "1d", "then": "archive"}])
    for name in ("shop.pay", "mail"):
        store.put(record(name=name, expires_at=now()))
    ended = run("maintain", "-b", postgres_url, "--apply", env={"ROOTCELLAR_RETENTION": rule})
    assert "Without --app" in ended.err
    assert [each.name for each in store.scan()] == ["shop.pay"]


def test_results_are_counted(store: Store, postgres_url: str) -> None:
    store.put(record())
    _, parts = maintain(postgres_url, "--apply")
    assert parts["counts"]["is_done"]
    assert run_here("stats", "-b", postgres_url, "--json").status == 0


def test_command_with_an_app_has_its_rules_and_finishes_its_chords(
    postgres_url: str, redis_url: str, tmp_path: Path
) -> None:
    (tmp_path / "kept.py").write_text(
        "from celery import Celery\n"
        f"app = Celery('kept', broker={redis_url!r}, backend={'rootcellar+' + postgres_url!r})\n"
        "app.conf.result_retention = [{'task': 'shop.*', 'keep': '1d', 'then': 'archive'}]\n"
    )
    with closing(open_store(postgres_url)) as store:
        store.put(record(name="shop.pay", expires_at=now()))
        ended = run("maintain", "-A", "kept", "--apply", "--json", cwd=tmp_path)
        assert "Without --app" not in ended.err
        parts = {part["part"]: part for part in json.loads(ended.out)["parts"]}
        assert (parts["cleanup"]["deleted"], parts["cleanup"]["waiting_for_archive"]) == (0, 1)
