"""``rootcellar check -A``: an app's settings in every form that Celery accepts, and apps without rootcellar."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import Ended, run, run_after, run_here

#: one module with an app for each way in which Celery is configured
APPS = """
import os
from celery import Celery

class Namespaced:
    CELERY_BROKER_URL = "memory://"
    CELERY_RESULT_BACKEND = "rootcellar+sqlite:///namespaced.sqlite3"
    CELERY_TASK_SERIALIZER = "json"
    CELERY_DATABASE_TABLE_NAMES = {"task": "my_tasks"}
    SECRET_KEY = "of Django"
    DATABASES = {"default": {}}
    is_overridden = "an attribute that Django's settings have"

namespaced = Celery("namespaced")
namespaced.config_from_object(Namespaced, namespace="CELERY")

old = Celery("old")
old.conf.update(
    BROKER_URL="memory://", CELERY_RESULT_BACKEND="rootcellar+sqlite:///old.sqlite3", CELERY_TASK_SERIALIZER="json",
    CELERY_TASK_RESULT_EXPIRES=60,
)

plain = Celery("plain", broker="memory://", backend="rootcellar+sqlite:///plain.sqlite3")
none = Celery("none", broker="memory://")
disabled = Celery("disabled", broker="memory://", backend="disabled://")
given = Celery("given", broker="memory://", backend=os.environ.get("STOCK"))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the apps."""
    (tmp_path / "apps.py").write_text(APPS)
    return tmp_path


def first_of(ended: Ended) -> dict[str, str]:
    """Return the problem to fix first."""
    assert ended.err == ""
    first = json.loads(ended.out)["first"]
    assert first is not None
    return dict(first)


@pytest.mark.parametrize("name", ["namespaced", "old", "plain"])
def test_app_is_checked_under_any_naming_of_settings(folder: Path, name: str) -> None:
    ended = run("check", "-A", f"apps:{name}", cwd=folder)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.endswith("All is well.\n")
    assert f"{name}.sqlite3" in ended.out


def test_settings_of_a_namespace_reach_the_store(folder: Path) -> None:
    run("schema", "create", "-A", "apps:namespaced", cwd=folder)
    ended = run("check", "-A", "apps:namespaced", cwd=folder)
    assert '"my_tasks"' in ended.out


def test_settings_show_an_app_that_reads_nothing_from_the_environment(folder: Path) -> None:
    ended = run("settings", "-A", "apps:namespaced", "--json", cwd=folder)
    assert (ended.status, ended.err) == (0, "")
    shown = json.loads(ended.out)
    assert (shown["problems"], shown["variables"], shown["differing"]) == ([], [], [])
    names = {"broker_url", "result_backend", "task_serializer", "database_table_names"}
    assert set(shown["celery"]) == names
    text = run("settings", "-A", "apps:namespaced", cwd=folder)
    assert (text.status, "`rootcellar check --app apps:namespaced`" in text.out) == (0, True)


def test_settings_need_no_broker_in_the_environment_of_an_app(folder: Path) -> None:
    env = {"CELERY_RESULT_BACKEND": "rootcellar+sqlite:///of_environment.sqlite3"}
    ended = run("settings", "-A", "apps:namespaced", cwd=folder, env=env)
    assert (ended.status, ended.err) == (0, "")
    assert "broker_url = 'memory://" in ended.out
    assert run("settings", cwd=folder, env=env).status == 1


def test_settings_point_to_the_app_if_the_environment_names_no_backend(tmp_path: Path) -> None:
    ended = run("settings", cwd=tmp_path)
    assert (ended.status, "add --app MODULE" in ended.err) == (1, True)
    ended = run("settings", "--json", cwd=tmp_path)
    assert (ended.status, "add --app MODULE" in json.loads(ended.out)["hint"]) == (1, True)
    ended = run("settings", cwd=tmp_path, env={"CELERY_RESULT_BACKEND": "sqlite"})
    assert (ended.status, "--app" in ended.err) == (1, False)


@pytest.mark.parametrize(
    ("files", "app"),
    [
        ({"manage.py": 'set("DJANGO_SETTINGS_MODULE", "shop.settings")', "shop/celery.py": ""}, "shop"),
        (
            {"manage.py": "set('DJANGO_SETTINGS_MODULE', 'config.settings.local')", "config/celery_app.py": ""},
            "config.celery_app",
        ),
        ({"manage.py": 'set("DJANGO_SETTINGS_MODULE", "shop.settings")'}, "MODULE"),
        ({"manage.py": ""}, "MODULE"),
    ],
)
def test_app_of_a_django_project_is_named(files: dict[str, str], app: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for command in ("check", "history"):
        ended = run(command, cwd=tmp_path)
        assert (ended.status, f"--app {app}, or set CELERY_RESULT_BACKEND" in ended.err) == (2, True), ended


@pytest.mark.parametrize("name", ["none", "disabled"])
def test_app_without_a_backend_is_reported(folder: Path, name: str) -> None:
    ended = run("check", "-A", f"apps:{name}", "--json", cwd=folder)
    assert ended.status == 1
    assert first_of(ended)["code"] == "backend-missing"
    assert "rootcellar+postgresql://" in first_of(ended)["remedy"]


@pytest.mark.parametrize(
    ("stock", "instead"),
    [
        ("redis://localhost/0", "write rootcellar+redis://…"),
        ("rediss://localhost/0", "write rootcellar+rediss://…"),
        ("sentinel://localhost:26379", "write rootcellar+sentinel://…"),
        ("db+sqlite:///stock.sqlite3", "write rootcellar+sqlite://…"),
        ("db+postgresql+psycopg2://me:hunter2@localhost/db", "write rootcellar+postgresql://…"),
        ("db+mysql+pymysql://me:hunter2@localhost/db", "write rootcellar+mysql://…"),
        ("mongodb://me:hunter2@localhost/db", "write rootcellar+mongodb://…"),
        ("rpc://", "write rootcellar-rpc://"),
        ("cache+memory://", "choose a store of rootcellar"),
        ("file:///nosuch/folder", "choose a store of rootcellar"),
        ("elasticsearch://localhost:9200/x/y", "choose a store of rootcellar"),
        ("nosuch://me:hunter2@localhost", "choose a store of rootcellar"),
    ],
)
def test_app_with_a_stock_backend_is_reported(folder: Path, stock: str, instead: str) -> None:
    """Also if that backend's own package is missing, or its server is down."""
    ended = run("check", "-A", "apps:given", "--json", cwd=folder, env={"STOCK": stock})
    first = first_of(ended)
    assert (ended.status, first["code"]) == (1, "backend-not-rootcellar")
    assert instead in first["remedy"]
    assert "hunter2" not in ended.out


def test_broker_is_checked_beside_a_stock_backend(folder: Path) -> None:
    env = {"STOCK": "redis://localhost:1/0"}
    assert run("check", "broker", "-A", "apps:given", cwd=folder, env=env).status == 0
    ended = run("check", "all", "-A", "apps:given", "--json", cwd=folder, env=env)
    assert [len(section["findings"]) > 1 for section in json.loads(ended.out)["sections"]] == [True, False]
    assert first_of(ended)["code"] == "backend-not-rootcellar"


def test_history_refuses_a_stock_backend(folder: Path) -> None:
    ended = run("history", "-A", "apps:given", cwd=folder, env={"STOCK": "db+postgresql+psycopg2://me@localhost/db"})
    assert ended.status == 1
    assert "db+postgresql+psycopg2://, which is not rootcellar [--app apps:given]" in ended.err
    assert "rootcellar+postgresql://" in ended.err


@pytest.mark.parametrize(
    ("module", "scheme"),
    [("psycopg", "postgresql"), ("redis", "redis"), ("pymongo", "mongodb"), ("pymysql", "mysql")],
)
def test_missing_driver_is_reported(module: str, scheme: str, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        f"from celery import Celery\napp = Celery('shop', broker='memory://', backend='rootcellar+{scheme}://h/d')\n"
    )
    hidden = f"sys.modules[{module!r}] = None; sys.path.insert(0, {str(tmp_path)!r})"
    for args in ([f"{scheme}://localhost/d"], ["-A", "shop"]):
        ended = run_after(hidden, "check", *args)
        assert (ended.status, ended.err) == (1, "")
        assert "(driver-missing)" in ended.out
        assert "pip install 'rootcellar[" in ended.out.splitlines()[-1]


def test_app_that_cannot_be_imported_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "leaves.py").write_text("raise SystemExit('no environment')\n")
    (tmp_path / "fails.py").write_text("1 / 0\n")
    (tmp_path / "unread.py").write_text(
        "from celery import Celery\napp = Celery('unread')\napp.config_from_object('nosuch.module')\n"
    )
    for name, words in {"leaves": "no environment", "fails": "ZeroDivisionError", "unread": "nosuch"}.items():
        ended = run("check", "-A", name, cwd=tmp_path)
        assert (ended.status, ended.out) == (1, "")
        assert words in ended.err
        assert len(ended.err.splitlines()) == 1


def test_unexpected_error_is_reported(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(
        "from celery import Celery\n"
        "app = Celery('odd', broker='memory://', backend='rootcellar+sqlite:///x.sqlite3')\n"
        "app.conf.worker_concurrency = 'many'\n"
    )
    ended = run("check", "-A", "odd", cwd=tmp_path)
    assert (ended.status, ended.err) == (1, "")
    assert "(check-failed)" in ended.out


class TestBackendOption:
    def test_backend_option_names_the_url_to_check(self, tmp_path: Path) -> None:
        ended = run_here("check", "--backend", f"sqlite:///{tmp_path}/results.sqlite3")
        assert (ended.status, ended.err) == (0, "")
        assert "results.sqlite3" in ended.out
        assert run_here("check", "-b", "redis://127.0.0.1:1/0").status == 1

    @pytest.mark.parametrize(
        "args",
        [
            ["gopher://x"],
            ["--backend", "gopher://x"],
            ["--backend", "redis"],
            ["redis", "--backend", "redis://h"],
            ["redis://h", "--backend", "redis://h"],
            ["--backend", "sqlite:///x", "-A", "shop"],
        ],
    )
    def test_wrong_use_ends_with_status_2(self, args: list[str]) -> None:
        ended = run_here("check", *args)
        assert (ended.status, ended.out) == (2, "")
        assert "Traceback" not in ended.err

    def test_celerys_own_url_is_answered_with_the_right_one(self) -> None:
        assert "write postgresql://…" in run_here("check", "db+postgresql+psycopg2://h/d").err


def test_last_line_ends_with_a_command() -> None:
    ended = run_after("sys.modules['psycopg'] = None", "check", "postgresql://localhost/d")
    assert " -> pip install 'rootcellar[postgres]'" in ended.out.splitlines()[-1]
