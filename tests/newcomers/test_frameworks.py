"""A newcomer's project with FastAPI or Django, in an environment with the variables of other programs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import httpx
import pytest

from tests.commands import Ended, environment, execute, run
from tests.helpers import HEAVY
from tests.servers import MongoServer, die_with_parent, free_port
from tests.workers import Worker

#: variables of the application's own servers, and of a service that Kubernetes knows
FOREIGN = {
    "DB_HOST": "10.0.0.9",
    "DB_PORT": "1",
    "DB_USER": "application",
    "DB_PASSWORD": "foreign-secret",
    "DB_SSLMODE": "require",
    "REDIS_HOST": "10.0.0.1",
    "REDIS_PORT": "tcp://10.0.0.1:6379",
    "REDIS_PASSWORD": "foreign-secret",
    "REDIS_SSL": "true",
    "BROKER_SSL": "true",
    "DATABASE_URL": "postgres://application:foreign-secret@10.0.0.9/application",
}
FASTAPI = {
    "shop.py": """
        from celery import Celery

        import rootcellar

        app = Celery("shop")
        app.config_from_object(rootcellar.settings())


        @app.task
        def add(x, y):
            return x + y
    """,
    "web.py": """
        import asyncio

        from fastapi import FastAPI

        import rootcellar
        from shop import add

        web = FastAPI()


        @web.get("/sum")
        async def sum_of(x: int, y: int):
            task = await asyncio.to_thread(add.delay, x, y)
            return {"sum": await rootcellar.result(task, timeout=30)}
    """,
}
DJANGO = {
    "manage.py": """
        import os
        import sys

        from django.core.management import execute_from_command_line

        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
        execute_from_command_line(sys.argv)
    """,
    "shop/__init__.py": """
        from shop.celery import app as celery_app

        __all__ = ("celery_app",)
    """,
    "shop/celery.py": """
        import os

        from celery import Celery

        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
        app = Celery("shop")
        app.config_from_object("django.conf:settings", namespace="CELERY")
        app.autodiscover_tasks()
    """,
    "shop/settings.py": """
        SECRET_KEY = "for this test"
        INSTALLED_APPS = ["orders"]
        ROOT_URLCONF = "orders.urls"
        ALLOWED_HOSTS = ["*"]
        USE_TZ = True
        CELERY_BROKER_URL = "BROKER"
        CELERY_RESULT_BACKEND = "BACKEND"
        CELERY_RESULT_EXTENDED = True
        CELERY_TASK_TRACK_STARTED = True
    """,
    "orders/__init__.py": "",
    "orders/tasks.py": """
        from celery import shared_task


        @shared_task
        def add(x, y):
            return x + y
    """,
    "orders/urls.py": """
        from django.http import JsonResponse
        from django.urls import path

        from orders.tasks import add


        def sum_of(request):
            task = add.delay(int(request.GET["x"]), int(request.GET["y"]))
            return JsonResponse({"sum": task.get(timeout=30)})


        urlpatterns = [path("sum", sum_of)]
    """,
}


def write(files: Mapping[str, str], folder: Path, replace: Mapping[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        text = dedent(text).lstrip()
        for what, by in replace.items():
            text = text.replace(f'"{what}"', f'"{by}"')
        (folder / name).write_text(text, encoding="utf-8")


def on(*names: str) -> pytest.MarkDecorator:
    """Run a test on these stores; the long form runs it on all of them."""
    every = ("sqlite", "postgresql", "redis", "mongodb")
    return pytest.mark.parametrize("backend", every if HEAVY else names, indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty store."""
    if request.param == "sqlite":
        yield f"rootcellar+sqlite:///{tmp_path}/results.sqlite3"
    elif request.param == "mongodb":
        server: MongoServer = request.getfixturevalue("mongo_server")
        url = server.new_database()
        yield f"rootcellar+{url}"
        server.drop_database(url)
    else:
        fixture = {"postgresql": "postgres_url", "redis": "redis_url"}[request.param]
        yield f"rootcellar+{request.getfixturevalue(fixture)}"


@contextmanager
def served(command: Callable[[int], list[str]], folder: Path, env: Mapping[str, str]) -> Iterator[httpx.Client]:
    """Serve a web application, and yield a client when it answers."""
    port = free_port()
    log = folder / "web.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            die_with_parent([sys.executable, *command(port)]),
            cwd=folder,
            env=environment(env),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                _wait_until_answered(client, process, log)
                yield client
        finally:
            process.kill()
            process.wait()
    assert "Traceback" not in log.read_text()


def _wait_until_answered(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            client.get("/no-such-page")
            return
        except httpx.ConnectError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)


def ended_well(ended: Ended) -> str:
    """Return the output of a command that succeeded."""
    assert ended.status == 0, ended
    assert "Traceback" not in ended.out + ended.err, ended
    assert "foreign-secret" not in ended.out + ended.err
    return ended.out


@on("sqlite", "redis")
def test_newcomers_fastapi_project_works(tmp_path: Path, redis_url: str, backend: str) -> None:
    write(FASTAPI, tmp_path, {})
    env = {"CELERY_BROKER": redis_url, "CELERY_RESULT_BACKEND": backend, **FOREIGN}
    with Worker("shop", env=env, cwd=tmp_path) as worker:
        with served(lambda port: ["-m", "uvicorn", "web:web", "--port", str(port)], tmp_path, env) as client:
            assert client.get("/sum", params={"x": 2, "y": 3}).json() == {"sum": 5}
        assert "ok    round trip" in ended_well(run("check", "-A", "shop", env=env, cwd=tmp_path))
        for options in ([], ["-A", "shop"]):
            assert "shop.add" in ended_well(run("history", *options, env=env, cwd=tmp_path))
        shown = ended_well(run("settings", env=env, cwd=tmp_path))
        in_force, _, rest = shown.partition("Celery gets:")
        assert [name for name in FOREIGN if name in in_force] == []
        assert [name for name in FOREIGN if name.startswith(("DB_", "REDIS_")) and name not in rest] == []
        assert "Traceback" not in worker.log.read_text()


@on("postgresql", "mongodb")
def test_newcomers_django_project_works(tmp_path: Path, redis_url: str, backend: str) -> None:
    write(DJANGO, tmp_path, {"BROKER": redis_url, "BACKEND": backend})
    with Worker("shop", env=FOREIGN, cwd=tmp_path) as worker:
        server = ["manage.py", "runserver", "--noreload", "--skip-checks"]
        with served(lambda port: [*server, f"127.0.0.1:{port}"], tmp_path, FOREIGN) as client:
            assert client.get("/sum", params={"x": 2, "y": 3}).json() == {"sum": 5}
        assert "ok    round trip" in ended_well(run("check", "-A", "shop", env=FOREIGN, cwd=tmp_path))
        assert "orders.tasks.add" in ended_well(run("history", "-A", "shop", env=FOREIGN, cwd=tmp_path))
        # the project uses Django's settings, not rootcellar.settings(): the command says how they are shown
        missing = run("settings", env=FOREIGN, cwd=tmp_path)
        assert (missing.status, "CELERY_RESULT_BACKEND is missing" in missing.err) == (1, True), missing
        assert "`rootcellar settings --app shop`; `rootcellar check --app shop`" in missing.err
        assert "Traceback" not in missing.err
        assert "task_track_started" in ended_well(run("settings", "--app", "shop", env=FOREIGN, cwd=tmp_path))
        assert "give --backend URL, or --app shop, or" in run("history", env=FOREIGN, cwd=tmp_path).err
        assert "Traceback" not in worker.log.read_text()


@on("postgresql", "redis")
def test_newcomers_django_project_with_variables_works(tmp_path: Path, redis_url: str, backend: str) -> None:
    """As in a container: whole URLs in the variables that Celery itself reads."""
    write(DJANGO, tmp_path, {"BROKER": "", "BACKEND": ""})
    env = {"CELERY_BROKER_URL": redis_url, "CELERY_RESULT_BACKEND": backend, **FOREIGN}
    with Worker("shop", env=env, cwd=tmp_path) as worker:
        call = "import django; django.setup(); from orders.tasks import add; print(add.delay(2, 3).get(timeout=30))"
        called = execute(
            [sys.executable, "-c", call], env={"DJANGO_SETTINGS_MODULE": "shop.settings", **env}, cwd=tmp_path
        )
        assert ended_well(called) == "5\n"
        assert "ok    round trip" in ended_well(run("check", "-A", "shop", env=env, cwd=tmp_path))
        assert "orders.tasks.add" in ended_well(run("history", "-A", "shop", env=env, cwd=tmp_path))
        assert "result_backend" in ended_well(run("settings", env=env, cwd=tmp_path))
        assert "Traceback" not in worker.log.read_text()
