"""``rootcellar partitions`` as a user runs it, and the rights that it needs."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from rootcellar import errors
from rootcellar.maintenance.mover import Mover, MoverConfig
from rootcellar.stores import Store
from rootcellar.stores.older import Older
from tests.commands import assert_one_line, command, environment, run_here, run_on_terminal
from tests.older.tables import enable, finished, move_all, now, opened, put_all, query, rows_in

OLD = timedelta(days=5)


@pytest.fixture
def both(postgres_url: str) -> Iterator[tuple[Store, Older]]:
    """A store with results."""
    with opened(postgres_url) as (store, older):
        put_all(store, [finished(OLD) for _ in range(20)])
        yield store, older


def test_enable_explains_what_happens_and_asks(both: tuple[Store, Older], postgres_url: str) -> None:
    without = run_here("partitions", "enable", "-b", postgres_url)
    assert (without.status, "Give --yes" in without.err) == (2, True)
    refused = run_on_terminal("partitions", "enable", "-b", postgres_url, typed="n\n")
    assert refused.status == 1
    assert "Below 10,000,000 results an older table is not needed" in " ".join(refused.out.split())
    assert not both[1].status().is_enabled
    done = run_here("partitions", "enable", "--yes", "--window", "7d", "-b", postgres_url)
    assert (done.status, "the older table is there" in done.out) == (0, True)
    assert both[1].status().window == timedelta(days=7)
    again = run_here("partitions", "enable", "-b", postgres_url)
    assert (again.status, "already" in again.out) == (0, True)


def test_window_below_an_hour_is_refused(postgres_url: str) -> None:
    with opened(postgres_url) as (store, older):
        store.check()
        refused = run_here("partitions", "enable", "--yes", "--window", "59m", "-b", postgres_url)
        assert (refused.status, "give 1h or more" in refused.err) == (2, True)
        with pytest.raises(ValueError, match="too short"):
            older.enable(timedelta(minutes=59))
        assert not older.status().is_enabled
        assert run_here("partitions", "enable", "--yes", "--window", "1h", "-b", postgres_url).status == 0
        assert older.status().window == timedelta(hours=1)


def test_status_shows_partitions_and_what_waits(both: tuple[Store, Older], postgres_url: str) -> None:
    store, older = both
    none = run_here("partitions", "status", "-b", postgres_url)
    assert (none.status, "`rootcellar partitions enable` creates one" in none.out) == (1, True)
    assert json.loads(run_here("partitions", "status", "--json", "-b", postgres_url).out)["enabled"] is False
    enable(store, older)
    put_all(store, [finished(OLD, expires_at=None)])
    found = json.loads(run_here("partitions", "status", "--json", "-b", postgres_url).out)
    assert (found["behind"]["rows"], found["partitions"], found["last_run"]) == (21, [], None)
    Mover(store, older, MoverConfig(first_move_after=0)).run()
    found = json.loads(run_here("partitions", "status", "--json", "-b", postgres_url).out)
    week, never = found["partitions"]
    assert (never["name"], never["until"]) == ("celery_taskmeta_older_never", None)
    assert found["next_drop"] == {"name": week["name"], "on": week["until"]}
    assert (found["behind"]["rows"], found["last_run"]["done"], found["missing_rights"]) == (0, 21, [])
    text = run_here("partitions", "status", "-b", postgres_url)
    assert text.status == 0
    for words in (f"Next drop: {week['name']} on {week['until']}", "moved 21 results", "never", "No result waits"):
        assert words in text.out


def test_disable_moves_everything_back(both: tuple[Store, Older], postgres_url: str) -> None:
    store, older = both
    nothing = run_here("partitions", "disable", "-b", postgres_url)
    assert (nothing.status, "there is no older table" in nothing.out) == (0, True)
    before = rows_in(postgres_url, "celery_taskmeta")
    enable(store, older)
    move_all(older)
    done = run_here("partitions", "disable", "--yes", "-b", postgres_url)
    assert (done.status, "20 results were moved back" in done.out) == (0, True)
    assert rows_in(postgres_url, "celery_taskmeta") == before


def test_disable_can_be_interrupted_and_run_again(both: tuple[Store, Older], postgres_url: str) -> None:
    store, older = both
    before = rows_in(postgres_url, "celery_taskmeta")
    enable(store, older)
    move_all(older)
    with psycopg.connect(postgres_url) as holder:
        # so that the partition cannot be dropped
        holder.execute("SELECT FROM celery_taskmeta_older")
        args = command("partitions", "disable", "--yes", "-b", postgres_url)
        with subprocess.Popen(args, stderr=subprocess.PIPE, text=True, env=environment()) as process:
            assert process.stderr is not None
            assert "cannot be dropped yet" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGINT
        status = run_here("partitions", "status", "-b", postgres_url)
        assert "run `rootcellar partitions disable` to finish that" in status.out
        assert "Run `rootcellar partitions disable`" in run_here("partitions", "enable", "-b", postgres_url).out
    assert run_here("partitions", "disable", "--yes", "-b", postgres_url).status == 0
    assert rows_in(postgres_url, "celery_taskmeta") == before


def test_another_window_of_an_older_table_is_refused(both: tuple[Store, Older], postgres_url: str) -> None:
    args = ("partitions", "enable", "--yes", "-b", postgres_url)
    for more in ([], [], ["--window", "2d"]):
        assert run_here(*args, *more).status == 0
    assert_one_line(run_here(*args, "--window", "90m"), "its window is 2 days", "partitions disable")


def test_store_without_an_older_table_refuses(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/one.sqlite3"
    assert run_here("schema", "create", "-b", url).status == 0
    for name in ("enable", "status", "disable"):
        assert_one_line(run_here("partitions", name, "-b", url), "no older table", "PostgreSQL")


@pytest.fixture
def roles(postgres_url: str) -> Iterator[str]:
    """The users owner_1, worker_1 and maintainer_1; tables that the first one owns."""
    names = ("owner_1", "worker_1", "maintainer_1")
    for name in names:
        query(postgres_url, f"CREATE ROLE {name} LOGIN PASSWORD 'pw'")
    query(postgres_url, "GRANT USAGE, CREATE ON SCHEMA public TO owner_1")
    yield postgres_url.rpartition("@")[2]
    for name in names:
        query(postgres_url, f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


def test_maintainer_needs_only_its_grants_and_workers_keep_theirs(roles: str, postgres_url: str) -> None:
    owner, worker, maintainer = (f"postgresql://{name}_1:pw@{roles}" for name in ("owner", "worker", "maintainer"))
    with opened(owner) as (store, _):
        store.check()
    for role in ("worker", "maintainer"):
        query(postgres_url, run_here("schema", "grants", f"{role}_1", "--for", role, "-b", postgres_url).out)

    with opened(worker) as (store, older):
        stored = put_all(store, [finished(OLD) for _ in range(5)])
        assert_one_line(
            run_here("partitions", "enable", "--yes", "-b", worker),
            "lacks CREATE on the schema public",
            "schema grants USER --for maintainer",
        )
    assert run_here("partitions", "enable", "--yes", "-b", maintainer).status == 0
    with opened(maintainer) as (store, older):
        assert older.missing_rights() == []
        expired = finished(timedelta(days=65), expires_at=now() - timedelta(days=30))
        store.put(expired)
        move_all(older, now() - timedelta(days=60))
        assert Mover(store, older, MoverConfig(first_move_after=0)).run().moved == 5
        assert store.get(expired.task_id) is None

    for url in (owner, worker):
        # also in partitions that were made after the rights were granted
        with opened(url) as (store, older):
            assert store.get(stored[0].task_id) == stored[0]
            assert "ownership of" in "".join(older.missing_rights())
            assert_one_line(run_here("partitions", "disable", "--yes", "-b", url), "lacks", "ownership of")
            with pytest.raises(errors.PermissionDenied):
                older.disable_step(10)
    with opened(worker) as (store, _):
        assert store.delete([stored[0].task_id]) == 1
    assert run_here("partitions", "disable", "--yes", "-b", maintainer).status == 0
    assert len(rows_in(postgres_url, "celery_taskmeta")) == 4


def test_maintainer_may_place_a_hold_if_another_user_owns_the_older_table(roles: str, postgres_url: str) -> None:
    owner, maintainer = f"postgresql://owner_1:pw@{roles}", f"postgresql://maintainer_1:pw@{roles}"
    with opened(owner) as (store, older):
        enable(store, older)
        put_all(store, [finished(OLD) for _ in range(3)])
        move_all(older)
        put_all(store, [finished(OLD)])
    query(postgres_url, run_here("schema", "grants", "maintainer_1", "--for", "maintainer", "-b", postgres_url).out)
    placed = run_here("hold", "add", "state:any", "--reason", "audit", "-b", maintainer)
    assert (placed.status, "It holds 4 tasks now" in " ".join(placed.out.split())) == (0, True), placed
    query(postgres_url, run_here("schema", "grants", "worker_1", "--for", "worker", "-b", postgres_url).out)
    worker = f"postgresql://worker_1:pw@{roles}"
    for words in (["add", "state:any", "--reason", "audit"], ["release", "1"]):
        assert_one_line(run_here("hold", *words, "-b", worker), "denied", "only the user who created the tables")
    reported = run_here("maintain", "-b", maintainer)
    (line,) = (line for line in reported.out.splitlines() if "partitions" in line)
    assert (reported.status, line.split()[0]) == (1, "refused")
    assert "1 result waits to be moved, and this user cannot do it: it lacks ownership of" in line


def test_names_of_partitions_are_quoted(postgres_url: str) -> None:
    options = {"task_table": 'odd "Name" of 100 % and more than forty letters', "task_schema": "Jobs"}
    with opened(postgres_url, **options, group_table="groups", group_schema="Jobs") as (store, older):
        enable(store, older)
        stored = put_all(store, [finished(OLD), finished(OLD, expires_at=None)])
        expired = finished(timedelta(days=65), expires_at=now() - timedelta(days=30))
        store.put(expired)
        move_all(older, now() - timedelta(days=60))
        assert Mover(store, older, MoverConfig(first_move_after=0)).run().moved == 2
        assert store.get_many([each.task_id for each in (*stored, expired)]).keys() == {s.task_id for s in stored}
        while older.disable_step(10).last is not None:
            pass
        assert store.get(stored[0].task_id) == stored[0]
