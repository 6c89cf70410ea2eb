"""What a newcomer gets wrong is told in a word."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from celery import Celery
from celery.exceptions import ChordError

from tests.commands import execute, run, run_after, run_here


@pytest.fixture
def results(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/results.sqlite3"
    app = Celery("app", backend=f"rootcellar+{url}", set_as_current=False)
    app.backend.store_result("one", 1, "SUCCESS")
    return url


def test_a_misspelt_state(results: str) -> None:
    ended = run_here("history", "-b", results, "--state", "FAILUR")
    assert "FAILUR is no state of Celery's: did you mean FAILURE?" in ended.out
    ended = run_here("history", "-b", results, "--state", "failur", "--json")
    assert (ended.out, "did you mean FAILURE?" in ended.err) == ("[]\n", True)
    assert "did you mean" not in run_here("history", "-b", results, "--state", "PROGRESS").out
    assert "did you mean" not in run_here("history", "-b", results, "--state", "failure").out


@pytest.mark.parametrize(("name", "meant"), [("pg", "postgres"), ("psql", "postgres"), ("postgress", "postgres")])
def test_a_backend_by_its_nickname(name: str, meant: str, tmp_path: Path) -> None:
    ended = run("settings", env={"CELERY_BROKER": "redis", "CELERY_RESULT_BACKEND": name}, cwd=tmp_path)
    assert (ended.status, f"did you mean {meant}?" in ended.err) == (1, True)


def test_a_missing_driver_is_told_by_settings(tmp_path: Path) -> None:
    (tmp_path / "vars").write_text("")
    env = {"CELERY_BROKER": "redis", "CELERY_RESULT_BACKEND": "hybrid"}
    gone = "sys.modules['psycopg'] = sys.modules['redis'] = None"
    ended = run_after(gone, "settings", "--env-file", str(tmp_path / "vars"), env=env)
    assert ended.status == 1
    assert "psycopg is not installed: pip install 'rootcellar[postgres]'" in ended.err
    assert "redis is not installed: pip install 'rootcellar[redis]'" in ended.err
    ended = run_after(gone, "settings", "--json", env=env)
    assert (ended.status, len(json.loads(ended.out)["problems"])) == (1, 2)


def test_what_a_broker_needs_beside_its_driver_is_told_by_settings() -> None:
    env = {"CELERY_BROKER": "redis", "CELERY_RESULT_BACKEND": "sqlite"}
    ended = run_after("sys.modules['packaging'] = sys.modules['packaging.version'] = None", "settings", env=env)
    if "packaging" in ended.err:  # not every release of kombu needs it
        assert (ended.status, "pip install 'celery[redis]'" in ended.err) == (1, True), ended


def test_the_demo_suggests_commands_that_work(tmp_path: Path) -> None:
    env = {"CELERY_RESULT_BACKEND": "sqlite", "DB_PATH": str(tmp_path / "my results.sqlite3")}
    ended = run("demo", "--once", "-n", "13", env=env, cwd=tmp_path)
    assert ended.status == 0, ended
    commands = [line.strip() for line in ended.out.splitlines() if line.startswith("  ")]
    words = shlex.split(next(line for line in commands if line.endswith("history")))
    assert words[:2] == ["CELERY_RESULT_BACKEND=sqlite", f"DB_PATH={tmp_path}/my results.sqlite3"]
    # in a shell that knows nothing of these variables
    again = execute(["env", *words], cwd=tmp_path)
    assert (again.status, "shop." in again.out) == (0, True), again


def test_the_demo_tells_of_the_folder_that_it_leaves(tmp_path: Path) -> None:
    ended = run("demo", "--once", "-n", "13", env={"TMPDIR": str(tmp_path)}, cwd=tmp_path)
    (folder,) = re.findall(r"The folder (\S+) is yours to delete", ended.out)
    assert [str(path) for path in tmp_path.iterdir()] == [folder]


def test_a_chord_that_failed_has_its_bodys_name(tmp_path: Path) -> None:
    app = Celery("app", backend=f"rootcellar+sqlite:///{tmp_path}/results.sqlite3", set_as_current=False)
    body = app.signature("shop.total", task_id="body", root_id="root")
    try:
        raise ChordError("Dependency raised")
    except ChordError as exc:
        app.backend.chords._fail(body, exc)
    record = app.backend.store.get("body")
    assert record is not None
    assert (record.state, record.name, record.root_id) == ("FAILURE", "shop.total", "root")
