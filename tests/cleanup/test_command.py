"""The command `rootcellar cleanup`, and what `rootcellar check` says of the cleanup."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from rootcellar.checks.cleaning import cleaning_of
from rootcellar.maintenance.cleanup import JOB
from rootcellar.records import TaskRecord
from rootcellar.stores import Store, open_store
from rootcellar.stores.jobs import Jobs
from rootcellar.testing.helpers import able, record, wait_until
from tests.cleanup.test_cleanup import hold, left, now, put_due
from tests.commands import command, environment, run, run_here

RULES = json.dumps([{"task": "reports.*", "then": "archive", "keep": "1h"}])


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/results.sqlite3"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    found = open_store(url)
    yield found
    found.close()


def test_dry_run_counts_and_shows_the_first_results_and_deletes_nothing(url: str, store: Store) -> None:
    records = put_due(store, 7, name="shop.pack")
    put_due(store, 2, name="audit.log")
    hold(store, "task:audit.log")
    ended = run_here("cleanup", "--dry-run", "-b", url)
    assert ended.status == 0, ended.err
    assert f"7 tasks in sqlite {url[10:]} would be deleted, because they have expired." in ended.out
    assert "2 expired results stay, because of holds." in ended.out
    assert [one.task_id in ended.out for one in records] == [True] * 5 + [False] * 2
    found = json.loads(run_here("cleanup", "--dry-run", "--json", "-b", url).out)
    assert (found["tasks"], found["held"], found["dry_run"]) == (7, 2, True)
    assert [one["task_id"] for one in found["examples"]] == [one.task_id for one in records[:5]]
    assert len(left(store)) == 9


def test_command_deletes_and_says_what_stays(url: str, store: Store) -> None:
    put_due(store, 4)
    kept = record(expires_at=now() + timedelta(hours=1))
    store.put(kept)
    ended = run_here("cleanup", "-b", url, "--batch", "1", "--rate", "100000")
    assert ended.status == 0, ended.err
    assert "Deleted 4 expired results. (" in ended.out
    assert "the rules are those of ROOTCELLAR_RETENTION" in ended.err
    assert left(store) == {kept.task_id}
    found = json.loads(run_here("cleanup", "--json", "-b", url).out)
    assert (found["tasks"], found["complete"], found["waiting_for_archive"]) == (0, True, 0)


def test_results_that_a_rule_of_the_environment_archives_stay(url: str, store: Store) -> None:
    waiting = put_due(store, 3, name="reports.year")
    put_due(store, 3, name="other")
    ended = run("cleanup", "-b", url, env={"ROOTCELLAR_RETENTION": RULES})
    assert ended.status == 0, ended.err
    assert "Deleted 3 expired results. 3 expired results stay until archived. No archive is configured" in ended.out
    assert left(store) == {one.task_id for one in waiting}


def test_store_without_tables_is_refused(url: str) -> None:
    ended = run_here("cleanup", "-b", url)
    assert ended.status == 1
    assert "rootcellar schema create" in ended.err


def test_ctrl_c_says_how_many_were_deleted(postgres_url: str) -> None:
    store = open_store(postgres_url)
    records = put_due(store, 20)
    with psycopg.connect(postgres_url) as admin, psycopg.connect(postgres_url, autocommit=True) as watching:
        # the second batch waits for this lock, in the statement that deletes
        admin.execute(
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "PERFORM pg_advisory_xact_lock_shared(7); RETURN old; END $$"
        )
        admin.execute(
            "CREATE TRIGGER wait BEFORE DELETE ON celery_taskmeta FOR EACH ROW "
            f"WHEN (old.task_id = '{records[10].task_id}') EXECUTE FUNCTION wait()"
        )
        admin.commit()
        admin.execute("SELECT pg_advisory_xact_lock(7)")
        process = subprocess.Popen(
            command("cleanup", "-b", postgres_url, "--batch", "10"),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        wait_until(lambda: watching.execute(waits).fetchone() == (1,), "the second batch")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert "Interrupted. 10 results deleted. Run it again to go on." in err
        admin.rollback()
    job = able(store, Jobs).jobs()[JOB]
    assert (job.done, job.has_failed, job.note) == (10, True, "interrupted")
    assert len(left(store)) == 10
    assert run_here("cleanup", "-b", postgres_url).status == 0
    assert not left(store)
    store.close()


# -- what `check` says


def old(store: Store) -> TaskRecord:
    one = record(expires_at=now() - timedelta(days=3))
    store.put(one)
    return one


def test_check_warns_if_nothing_was_cleaned_for_two_days(url: str, store: Store) -> None:
    (finding,) = cleaning_of(store, {})
    assert (finding.code, finding.seen) == ("", "nothing is due")
    old(store)
    (finding,) = cleaning_of(store, {})
    assert finding.code == "cleanup-missing"
    assert finding.seen == "there was none, and a result that expired 3 days ago is still stored"
    assert run_here("cleanup", "-b", url).status == 0
    (finding,) = cleaning_of(store, {})
    assert (finding.code, finding.seen) == ("", "the last one was less than a minute ago")


def test_check_warns_of_rules_that_archive_without_an_archive(store: Store) -> None:
    conf = {"result_retention": RULES}
    first, second = cleaning_of(store, conf)
    assert (first.code, second.code) == ("archive-missing", "")
    (finding,) = cleaning_of(store, {**conf, "result_archive": "/archive"})
    assert finding.code == ""


def test_check_has_a_line_about_the_cleanup(url: str, store: Store) -> None:
    old(store)
    ended = run("check", env={"CELERY_RESULT_BACKEND": f"rootcellar+{url}"})
    assert "there was none, and a result that expired 3 days ago is still stored" in ended.out
    assert "(cleanup-missing)" in ended.out
