"""`rootcellar.settings()` in a process, its secrets, and the command."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from celery import Celery

import rootcellar
from rootcellar.errors import SettingsWrong
from tests.commands import run, run_here
from tests.configuration.helpers import ODD, app_of, problems, settings

# -- the environment that Celery reads itself


def test_environment_is_replaced_and_read_again() -> None:
    first = settings(CELERY_BROKER_URL="redis", DB_HOST="one")
    assert os.environ["CELERY_BROKER_URL"] == "redis://localhost:6379/0"
    # after settings() has run, the command `celery` of Celery 5.4 reads this as CELERY_BROKER_URL
    assert os.environ["CELERY_BROKER"] == "redis://localhost:6379/0"
    assert dict(rootcellar.settings()) == dict(first)
    # the variables behind the name may change, as in a test or after a fork
    os.environ["DB_HOST"] = "two"
    assert urlsplit(rootcellar.settings()["result_backend"]).hostname == "two"
    os.environ["CELERY_RESULT_BACKEND"] = "sqlite"
    assert rootcellar.settings()["result_backend"].startswith("rootcellar+sqlite:")


def test_failure_leaves_the_environment_unchanged() -> None:
    problems(CELERY_RESULT_BACKEND="redis", REDIS_PORT="x")
    assert os.environ["CELERY_RESULT_BACKEND"] == "redis"


def test_celery_reads_the_names_itself_without_settings() -> None:
    """As docs/configuration.md says of an app that does not call settings()."""

    def backend(name: str) -> str:
        os.environ["CELERY_RESULT_BACKEND"] = name
        return type(Celery("plain", set_as_current=False).backend).__module__

    for name in ("postgres", "hybrid", "mysql", "sqlite"):
        with pytest.raises(ModuleNotFoundError):
            backend(name)
    assert [backend(name) for name in ("redis", "mongodb", "rpc")] == [
        "celery.backends.redis",
        "celery.backends.mongodb",
        "celery.backends.rpc",
    ]


def test_importing_rootcellar_does_not_import_pydantic() -> None:
    program = (
        "import sys, rootcellar, rootcellar.backend.backend; print('pydantic' in sys.modules, 'dotenv' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


# -- secrets


def test_repr_of_settings_hides_passwords() -> None:
    variables = {
        "CELERY_RESULT_BACKEND": "hybrid",
        "DB_PASSWORD": "Secret1",
        "REDIS_PASSWORD": "Secret1",
        "BROKER_PASSWORD": "Secret1",
        "REDIS_SENTINELS": "a",
        "REDIS_SENTINEL_MASTER": "m",
        "REDIS_SENTINEL_PASSWORD": "Secret1",
        "DB_LISTEN_HOST": "h",
        "CELERY_BROKER_READ_URL": "amqp://u:Secret1@h//",
    }
    found = settings(**variables)
    app = app_of(found)
    shown = [repr(found), str(found), repr(found.variables), str(found.variables), repr(dict(found)), str(dict(found))]
    shown += [repr(copy.copy(found)), json.dumps(found.masked()), repr(found.in_force()), app.conf.humanize()]
    for text in shown:
        assert "Secret1" not in text
    assert "Secret1" in found["result_backend_transport_options"]["durable_url"]


def test_error_of_settings_hides_passwords() -> None:
    for variables in (
        {"CELERY_RESULT_BACKEND": "postgresql://u:Secret1@x@h/d"},
        {"CELERY_RESULT_BACKEND": "Secret1"},
        {"CELERY_BROKER": "nosuch://u:Secret1@h"},
        {"CELERY_RESULT_BACKEND": "db+mysql://u:Secret1@h/d"},
        {"DB_PASSWORD": "Secret1", "DB_PORT": "x"},
        {"DB_PORT": "postgresql://u:Secret1@h/d"},
        {"ROOTCELLAR_BLOB_URI": "sftp://u:Secret1@h/d"},
    ):
        with pytest.raises(SettingsWrong) as info:
            settings(**variables)
        chain = [info.value, info.value.__cause__, info.value.__context__]
        assert "Secret1" not in repr([(str(exc), repr(exc)) for exc in chain])
        for name in variables:
            del os.environ[name]


# -- the command


def command_env(**variables: str) -> dict[str, str]:
    return {"CELERY_BROKER": "redis", "CELERY_RESULT_BACKEND": "postgres", **variables}


def rows_of(table: str) -> dict[str, list[str]]:
    """Return the words of each line of the table of variables, with its heading, by the first word."""
    lines = [line.split() for line in table.splitlines() if re.match(r"[A-Z_]+ ", line)]
    return {name: rest for name, *rest in lines}


def test_command_shows_the_settings_in_force(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DB_HOST=db.example.com\nMONGODB_HOST=m\n")
    env = command_env(DB_PASSWORD=ODD, REDIS_URL="x")
    ended = run("settings", env=env, cwd=tmp_path)
    assert ended.status == 0, ended
    rows = rows_of(ended.out)
    assert rows["DB_HOST"] == [".env", "db.example.com"]
    assert rows["DB_PASSWORD"] == ["environment", "**"]
    # defaults are counted, and listed with --all
    every_row = rows_of(run("settings", "--all", env=env, cwd=tmp_path).out)
    assert every_row["DB_USER"] == ["default", "celery"]
    assert rows == {name: row for name, row in every_row.items() if row[0] != "default"}
    assert f"{len(every_row) - len(rows)} more have their default: `rootcellar settings --all`" in ended.out
    assert "result_backend = 'rootcellar+postgresql://celery:**@db.example.com:5432/celery_results'" in ended.out
    assert "not used by this broker and backend: MONGODB_HOST" in ended.out
    assert "ignored: REDIS_URL" in ended.out
    as_json = json.loads(run("settings", "--json", env=env, cwd=tmp_path).out)
    assert as_json["celery"]["result_backend"] == "rootcellar+postgresql://celery:**@db.example.com:5432/celery_results"
    assert {"name": "DB_PASSWORD", "value": "**", "origin": "environment"} in as_json["variables"]
    assert ODD not in json.dumps(as_json) + ended.out
    assert len(as_json["variables"]) == len(every_row) - 1  # the heading


def test_command_lists_every_problem(tmp_path: Path) -> None:
    env = command_env(DB_PORT="x", REDIS_DB="y")
    ended = run("settings", env=env, cwd=tmp_path)
    assert (ended.status, ended.out) == (1, "")
    *problems, see = ended.err.splitlines()
    assert [line.split()[1] for line in problems] == ["DB_PORT", "REDIS_DB"]
    assert see == "(see `rootcellar explain settings-wrong`)"
    as_json = run("settings", "--json", env=env, cwd=tmp_path)
    assert as_json.status == 1
    assert len(json.loads(as_json.out)["problems"]) == 2
    assert run_here("settings", "--env-file", "nosuch").status == 1
