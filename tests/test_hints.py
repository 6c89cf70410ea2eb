"""A newcomer's mistakes are answered with the right word."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from celery import Celery
from celery.exceptions import ChordError

from rootcellar.errors import ConfigurationError
from tests.commands import execute, run, run_after, run_here


@pytest.fixture
def results(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/results.sqlite3"
    app = Celery("app", backend=f"rootcellar+{url}", set_as_current=False)
    app.backend.store_result("one", 1, "SUCCESS")
    return url


def test_misspelt_state_gets_a_suggestion(results: str) -> None:
    ended = run_here("history", "-b", results, "--state", "FAILUR")
    assert "FAILUR is not a state of Celery: did you mean FAILURE?" in ended.err
    ended = run_here("history", "-b", results, "--state", "failur", "--json")
    assert (ended.out, "did you mean FAILURE?" in ended.err) == ("[]\n", True)
    assert "did you mean" not in run_here("history", "-b", results, "--state", "PROGRESS").err
    assert "did you mean" not in run_here("history", "-b", results, "--state", "failure").err


@pytest.mark.parametrize(("name", "meant"), [("pg", "postgres"), ("psql", "postgres"), ("postgress", "postgres")])
def test_nickname_of_a_backend_gets_a_suggestion(name: str, meant: str, tmp_path: Path) -> None:
    ended = run("settings", env={"CELERY_BROKER": "redis", "CELERY_RESULT_BACKEND": name}, cwd=tmp_path)
    assert (ended.status, f"did you mean {meant}?" in ended.err) == (1, True)


def test_settings_command_reports_a_missing_driver(tmp_path: Path) -> None:
    (tmp_path / "vars").write_text("")
    env = {"CELERY_BROKER": "redis", "CELERY_RESULT_BACKEND": "hybrid"}
    gone = "sys.modules['psycopg'] = sys.modules['redis'] = None"
    ended = run_after(gone, "settings", "--env-file", str(tmp_path / "vars"), env=env)
    assert ended.status == 1
    assert "psycopg is not installed: pip install 'rootcellar[postgres]'" in ended.err
    assert "redis is not installed: pip install 'rootcellar[redis]'" in ended.err
    ended = run_after(gone, "settings", "--json", env=env)
    assert (ended.status, len(json.loads(ended.out)["problems"])) == (1, 2)


def test_settings_command_names_missing_packages_of_a_broker() -> None:
    env = {"CELERY_BROKER": "redis", "CELERY_RESULT_BACKEND": "sqlite"}
    ended = run_after("sys.modules['packaging'] = sys.modules['packaging.version'] = None", "settings", env=env)
    if "packaging" in ended.err:  # not every release of kombu needs it
        assert (ended.status, "pip install 'celery[redis]'" in ended.err) == (1, True), ended


def test_demo_suggests_commands_that_work(tmp_path: Path) -> None:
    env = {"CELERY_RESULT_BACKEND": "sqlite", "DB_PATH": str(tmp_path / "my results.sqlite3")}
    ended = run("demo", "--once", "-n", "13", "--keep", env=env, cwd=tmp_path)
    assert ended.status == 0, ended
    commands = [line.strip() for line in ended.out.splitlines() if line.startswith("  ")]
    words = shlex.split(next(line for line in commands if line.endswith("history")))
    assert words[:2] == ["CELERY_RESULT_BACKEND=sqlite", f"DB_PATH={tmp_path}/my results.sqlite3"]
    # in a shell without these variables
    again = execute(["env", *words], cwd=tmp_path)
    assert (again.status, "shop." in again.out) == (0, True), again


def test_demo_names_the_folder_that_it_leaves(tmp_path: Path) -> None:
    ended = run("demo", "--once", "-n", "13", env={"TMPDIR": str(tmp_path)}, cwd=tmp_path)
    (folder,) = re.findall(r"Delete the folder (\S+) when", ended.out)
    assert [str(path) for path in tmp_path.iterdir()] == [folder]


def test_failed_chord_has_the_name_of_its_body(tmp_path: Path) -> None:
    app = Celery("app", backend=f"rootcellar+sqlite:///{tmp_path}/results.sqlite3", set_as_current=False)
    body = app.signature("shop.total", task_id="body", root_id="root")
    try:
        raise ChordError("Dependency raised")
    except ChordError as exc:
        app.backend.chords._fail(body, exc)
    record = app.backend.store.get("body")
    assert record is not None
    assert (record.state, record.name, record.root_id) == ("FAILURE", "shop.total", "root")


def test_celerys_database_url_is_answered_with_the_right_one() -> None:
    for url in ("db+postgresql://me:s3cret@host/db", "db+mysql+pymysql://me:s3cret@host/db"):
        ended = run_here("history", "-b", url)
        assert f"write rootcellar+{url[3:].partition(':')[0].partition('+')[0]}:// instead" in ended.err
        assert "s3cret" not in ended.err


def test_unknown_transport_option_gets_a_suggestion(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"chord_leese": 3, "visibility_timeout": 60, "master_name": "m", "region": "eu"}
    app = Celery("app", backend=f"rootcellar+sqlite:///{tmp_path}/r.sqlite3", set_as_current=False)
    app.conf.result_backend_transport_options = options
    app.backend.store_result("one", 1, "SUCCESS")
    messages = [message for message in caplog.messages if "transport_options" in message]
    assert len(messages) == 2
    assert "the unknown option chord_leese: did you mean chord_lease?" in messages[0]
    assert messages[1].endswith("the unknown option region")


def test_redaction_of_another_type_is_refused(tmp_path: Path) -> None:
    app = Celery("app", backend=f"rootcellar+sqlite:///{tmp_path}/r.sqlite3", set_as_current=False)
    app.conf.result_redact = {"x": 1}
    with pytest.raises(ConfigurationError, match="it must be names, or on or off, not dict"):
        _ = app.backend


def test_number_of_tasks_has_the_same_form_as_the_prompt() -> None:
    of_option = run_here("recommend", "--tasks-per-day", "10k", "--json")
    assert of_option == run_here("recommend", "--tasks-per-day", "10,000", "--json")
    assert of_option.status == 0
