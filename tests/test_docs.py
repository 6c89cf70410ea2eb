"""The examples of the documentation run as printed, on real servers instead of the example's hosts."""

from __future__ import annotations

import os
import pickle
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import httpx
import psycopg
import pytest
from celery import Celery

from rootcellar import errors as all_errors
from rootcellar.errors import RootcellarError, StoreError
from rootcellar.records import TaskRecord
from rootcellar.stores import StoreOptions, open_store
from tests.helpers import HEAVY
from tests.mariadb_server import MariaDBServer
from tests.redis_servers import ALSO_MIGRATION, COMMANDS, KEYS
from tests.servers import MongoServer, PgBouncerServer, PostgresServer, RedisServer, die_with_parent, free_port
from tests.workers import Worker
from tools.settings_reference import fill_in

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# (\w+\.py)\n")
EXAMPLE_DATABASE = "postgresql://celery:secret@localhost:5432/results"
EXAMPLE_BROKER = "redis://localhost:6379/0"


class Page:
    """A page of the documentation, with the test's servers instead of the example's hosts."""

    def __init__(self, name: str, replace: dict[str, str]) -> None:
        text = (ROOT / name).read_text(encoding="utf-8")
        for example, real in replace.items():
            text = text.replace(example, real)
        self.blocks = BLOCK.findall(text)

    def replace(self, example: str, real: str) -> None:
        """Replace the example's values by the test's."""
        self.blocks = [(language, body.replace(example, real)) for language, body in self.blocks]

    def of(self, language: str) -> list[str]:
        """Return the blocks in one language."""
        return [body for found, body in self.blocks if found == language]

    def write_files(self, folder: Path) -> None:
        """Write the Python blocks that begin with a file name."""
        for body in self.of("python"):
            if name := FILE_NAME.match(body):
                (folder / name[1]).write_text(body, encoding="utf-8")

    def commands(self) -> Iterator[tuple[str, str]]:
        """Return the commands, each with the output that the page shows, which may be empty."""
        for body in self.of("console"):
            for piece in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                command, _, expected = piece.partition("\n")
                yield command, expected


def run(command: str, folder: Path, status: int = 0, timeout: float = 60) -> str:
    """Run a command of the page in ``folder`` with this environment's programs; return its output."""
    words = shlex.split(command)
    programs = Path(sys.executable).parent
    program = (
        sys.executable if words[0] == "python" else shutil.which(words[0], path=f"{programs}:{os.environ['PATH']}")
    )
    assert program, f"{words[0]} is not installed"
    done = subprocess.run(
        [program, *words[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == status, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def play(page: Page, folder: Path) -> None:
    """Follow the page from top to end: write its files, start its workers, run its commands.

    A worker runs until the page starts another one or changes the configuration. ``…`` stands for any output.
    """
    with ExitStack() as running:
        for language, body in page.blocks:
            if language == "python":
                name = FILE_NAME.match(body)
                assert name, f"a block without a file's name:\n{body}"
                if name[1] == "celeryconfig.py":
                    running.close()
                (folder / name[1]).write_text(body, encoding="utf-8")
                continue
            assert language == "console"
            for piece in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                command, _, expected = piece.partition("\n")
                if command.startswith("celery "):
                    running.enter_context(Worker("tasks", concurrency=2, cwd=folder))
                    continue
                printed = run(command, folder, status=1 if "  FAIL  " in expected else 0)
                wanted = ".*".join(re.escape(part.strip()) for part in expected.split("…"))
                assert re.search(wanted, printed, re.DOTALL), f"{command}\n{expected}\n{printed}"


def test_page_getting_started_works(tmp_path: Path, postgres_url: str, redis_url: str) -> None:
    page = Page("docs/getting-started.md", {EXAMPLE_DATABASE: postgres_url, EXAMPLE_BROKER: redis_url})
    page.write_files(tmp_path)
    with Worker("tasks", cwd=tmp_path):
        for command, expected in page.commands():
            if command.startswith(("pip ", "celery ")):
                continue  # installed already; the worker runs
            if command == "rootcellar demo":
                command = "rootcellar demo --once"
            assert expected in run(command, tmp_path)
    with psycopg.connect(postgres_url) as connection:
        for statement in page.of("sql"):
            assert connection.execute(statement.encode()).fetchall(), statement


def test_project_on_stock_redis_switches_and_back(tmp_path: Path, postgres_url: str, redis_server: RedisServer) -> None:
    urls = {f"redis://localhost:6379/{n}": redis_server.database_url(9_210 + n) for n in range(2)}
    play(Page("docs/from-redis.md", {EXAMPLE_DATABASE: postgres_url, **urls}), tmp_path)


def test_project_on_a_stock_database_switches_and_back(tmp_path: Path, postgres_url: str, redis_url: str) -> None:
    old_row = postgres_url.partition("//")[2]
    replace = {EXAMPLE_DATABASE.partition("//")[2]: old_row, EXAMPLE_BROKER: redis_url}
    page = Page("docs/from-database.md", replace)
    app = Celery("old", backend=f"db+postgresql+psycopg://{old_row}", set_as_current=False)
    app.backend.store_result("written-by-celery-5.6", None, "SUCCESS")
    app.backend.ResultSession().get_bind().dispose()
    with psycopg.connect(postgres_url) as connection:
        connection.execute("UPDATE celery_taskmeta SET result = %s", [pickle.dumps({"total": 12})])
    Page("docs/from-redis.md", {EXAMPLE_BROKER: redis_url}).write_files(tmp_path)  # the project of both pages
    play(page, tmp_path)


def test_page_asyncio_works(tmp_path: Path, postgres_url: str, redis_url: str) -> None:
    page = Page("docs/asyncio.md", {EXAMPLE_DATABASE: postgres_url, EXAMPLE_BROKER: redis_url})
    with Served(page, tmp_path), Worker("tasks", concurrency=2, cwd=tmp_path):
        for command, expected in page.commands():
            if command.startswith("python "):
                assert run(command, tmp_path) == expected


def test_wait_ends_when_its_http_client_disconnects(tmp_path: Path, postgres_url: str, redis_url: str) -> None:
    page = Page("docs/asyncio.md", {EXAMPLE_DATABASE: postgres_url, EXAMPLE_BROKER: redis_url})
    with Served(page, tmp_path) as url, httpx.Client(base_url=url, timeout=30) as http:
        with http.stream("GET", "/counts/waits-for-a-worker/states") as events:
            assert '"PENDING"' in next(events.iter_lines())
            _wait_until_waits_are(["waits-for-a-worker"], http)  # the first state is sent before the wait begins
        _wait_until_waits_are([], http)


def _wait_until_waits_are(task_ids: list[str], http: httpx.Client) -> None:
    deadline = time.monotonic() + 60
    while (waits := http.get("/waits").json()) != task_ids:
        assert time.monotonic() < deadline, f"the process waits for {waits}, and not for {task_ids}"


class Served:
    """Serve the FastAPI application of a page by the page's own command; a context manager that returns its URL.

    It has one more path, ``/waits``: the ids of the tasks that the process waits for.
    """

    def __init__(self, page: Page, folder: Path) -> None:
        self._port = free_port()
        page.replace("localhost:8000", f"127.0.0.1:{self._port}")
        page.write_files(folder)
        (command,) = [command for command, _ in page.commands() if command.startswith("uvicorn ")]
        assert command == "uvicorn web:web --port 8000 &"
        (folder / "served.py").write_text(
            "from tasks import app\nfrom web import web\n\n\n@web.get('/waits')\ndef waits() -> list[str]:\n"
            "    return app.backend.waiter.watcher().awaited_ids()\n"
        )
        self._folder = folder

    def __enter__(self) -> str:
        command = [sys.executable, "-m", "uvicorn", "served:web", "--port", str(self._port)]
        self._log = (self._folder / "uvicorn.log").open("w+")
        self._process = subprocess.Popen(
            die_with_parent(command), cwd=self._folder, stdout=self._log, stderr=subprocess.STDOUT
        )
        url = f"http://127.0.0.1:{self._port}"
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"{url}/waits")
            except httpx.ConnectError:
                assert self._process.poll() is None, (self._folder / "uvicorn.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            else:
                return url

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()
        assert "Traceback" not in (self._folder / "uvicorn.log").read_text()


@pytest.mark.parametrize("name", ["retry", "workflows"])
def test_page_about_tasks_of_a_worker_works(name: str, tmp_path: Path, postgres_url: str, redis_url: str) -> None:
    play(Page(f"docs/{name}.md", {EXAMPLE_DATABASE: postgres_url, EXAMPLE_BROKER: redis_url}), tmp_path)


def test_page_testing_works(tmp_path: Path) -> None:
    page = Page("docs/testing.md", {})
    page.write_files(tmp_path)
    _, (command, expected), _ = page.commands()
    (passed,) = re.findall(r"\d+ passed", expected)
    printed = run(f"{command} test_shop.py", tmp_path)
    assert passed in printed
    assert not re.search(r"warning", printed), printed


@pytest.mark.timeout(600)  # the long form is the whole of both suites
def test_store_of_your_own_is_tested_as_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page("docs/testing.md", {})
    page.write_files(tmp_path)
    (project,) = page.of("toml")
    (tmp_path / "pyproject.toml").write_text(project)
    (tmp_path / "conftest.py").unlink()
    site = tmp_path / "site"
    run(f"python -m pip install -q --no-deps --no-build-isolation --target {site} .", tmp_path)
    (tmp_path / "cellar.py").unlink()
    monkeypatch.setenv("PYTHONPATH", str(site))
    run("python -c 'import tests'", tmp_path, status=1)
    if not HEAVY:
        # the long form runs both suites whole
        monkeypatch.setenv("PYTEST_ADDOPTS", "-k 'TestChords or TestTasks or TestWatching or TestResults'")
    command, _ = list(page.commands())[-1]
    printed = run(command, tmp_path, timeout=600)
    assert re.search(r"\d{3} passed", printed), printed
    assert "failed" not in printed
    assert "/tests/" not in printed


def test_page_postgresql_works(tmp_path: Path, postgres_url: str) -> None:
    page = Page("docs/postgresql.md", {EXAMPLE_DATABASE: postgres_url})
    for command, expected in page.commands():
        if not command.startswith("pip "):
            assert expected in run(command, tmp_path)
    with psycopg.connect(postgres_url) as connection:
        for statement in page.of("sql"):
            connection.execute(statement.encode()).fetchall()
        for statement in page.of("pgsql"):
            connection.execute(statement.encode())
    check_settings(page)


def test_page_pgbouncer_works(postgres_server: PostgresServer, postgres_url: str) -> None:
    (config,) = Page("docs/postgresql.md", {}).of("ini")
    with DocumentedPgBouncer(postgres_server, config, urlsplit(postgres_url).path[1:]) as pooler:
        store = open_store(pooler.through(postgres_url))
        store.put(TaskRecord(task_id="task", state="SUCCESS"))
        assert store.get("task") is not None
        store.close()


class DocumentedPgBouncer(PgBouncerServer):
    """A PgBouncer with a printed configuration, with the test's addresses and files."""

    def __init__(self, postgres: PostgresServer, config: str, database: str) -> None:
        super().__init__(postgres)
        replace = {
            "results = host=127.0.0.1 port=5432": f"{database} = host=127.0.0.1 port={postgres.port}",
            "listen_port = 6432": f"listen_port = {self.port}\nunix_socket_dir = {self.folder}",
            "/etc/pgbouncer/userlist.txt": str(self.folder / "users.txt"),
        }
        for printed, real in replace.items():
            assert printed in config
            config = config.replace(printed, real)
        self._config = config
        self._database = database

    @property
    def url(self) -> str:
        return super().url.rpartition("/")[0] + f"/{self._database}"

    def _command(self) -> list[str]:
        program, file = super()._command()
        Path(file).write_text(self._config)
        return [program, file]


def test_page_check_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres_url: str) -> None:
    open_store(postgres_url).check()
    page = Page("docs/check.md", {EXAMPLE_DATABASE: postgres_url})
    for command, expected in page.commands():
        printed = run(command, tmp_path)
        # the page shows the same steps with other measured times
        assert re.findall(r"^  ok    [a-z]+(?: success| trip)?", printed, re.MULTILINE) == re.findall(
            r"^  ok    [a-z]+(?: success| trip)?", expected, re.MULTILINE
        )
        assert expected.rpartition("\n\n")[2].rpartition(".\n")[2] in printed
    monkeypatch.chdir(tmp_path)
    (body,) = page.of("python")
    exec(compile(body, "check", "exec"), {"__name__": "check"})  # noqa: S102 - our own page


def test_page_sqlite_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = Page("docs/sqlite.md", {})
    store = open_store("rootcellar+sqlite:///results.sqlite3")
    store.check()
    for command, _ in page.commands():
        program, file, *rest = shlex.split(command)
        if program == "touch":
            # it gives the file to a group that may not exist here
            assert rest == ["&&", "chgrp", "celery", file, "&&", "chmod", "660", file]
            continue
        assert program == "sqlite3"
        (sql,) = rest
        with closing(sqlite3.connect(tmp_path / file)) as connection:  # the program itself may not be installed
            connection.execute(sql).fetchall()
    check_settings(page)


def test_page_hybrid_works(
    tmp_path: Path, new_postgres: Callable[..., PostgresServer], kept_redis_server: RedisServer
) -> None:
    redis_url = kept_redis_server.database_url(77)
    server = new_postgres(auth="trust")  # the page's command has no password
    url = server.create_database()
    open_store(url).check()
    real = {"postgresql%3A%2F%2Flocalhost%2Fresults": quote(url, safe="")}
    page = Page("docs/hybrid.md", {**real, "redis%3A%2F%2Flocalhost%2F0": quote(redis_url, safe="")})
    for command, _ in page.commands():
        if not command.startswith("pip "):
            run(command, tmp_path)
    (settings,) = page.of("python")
    found: dict[str, Any] = {"__name__": "settings"}
    exec(compile(settings, "settings", "exec"), found)  # noqa: S102 - our own page
    open_store(found["result_backend"], StoreOptions(transport_options=found["result_backend_transport_options"]))


def test_page_mysql_works(tmp_path: Path, mysql_server: MariaDBServer) -> None:
    url = mysql_server.create_database()
    page = Page(
        "docs/mysql.md", {"mysql://celery:secret@localhost:3306/results": url, "?ssl_ca=/etc/ssl/db-ca.pem": ""}
    )
    for command, _ in page.commands():
        if not command.startswith("pip "):
            run(command, tmp_path)
    for statement in page.of("sql"):
        mysql_server.execute(statement, url.rpartition("/")[2])
    check_settings(page)
    mysql_server.drop_databases([url.rpartition("/")[2]])


def test_page_redis_works(tmp_path: Path, redis_server: RedisServer) -> None:
    urls = {f"redis://localhost:6379/{n}": redis_server.database_url(9_200 + n) for n in range(2)}
    page = Page("docs/redis.md", urls)
    for command, expected in page.commands():
        if not command.startswith("pip "):
            assert expected in run(command, tmp_path)
    for body in page.of("python"):
        found: dict[str, Any] = {"__name__": "settings"}
        exec(compile(body, "settings", "exec"), found)  # noqa: S102 - our own page
        app = Celery("page", set_as_current=False)
        app.conf.update({name: value for name, value in found.items() if not name.startswith("_")})
        assert "secret" not in app.backend.store.where


def test_documented_rights_of_a_redis_user_are_those_of_the_tests() -> None:
    page = (ROOT / "docs/redis.md").read_text(encoding="utf-8")
    (rules,) = re.findall(r"^ACL SETUSER celery on >secret (.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert sorted(rules.split()) == sorted([*KEYS.split(), *COMMANDS.split()])
    assert f", add `{ALSO_MIGRATION}`." in page, "for a migration"


def test_page_mongodb_works(tmp_path: Path, mongo_server: MongoServer) -> None:
    url = mongo_server.new_database()
    page = Page("docs/mongodb.md", {"mongodb://celery:secret@localhost:27017/results": url})
    for command, _ in page.commands():
        if not command.startswith("pip "):
            run(command, tmp_path)
    check_settings(page)
    mongo_server.drop_database(url)


def check_settings(page: Page) -> None:
    """Run a page's settings, and check that a store accepts each backend URL in them."""
    for body in page.of("python"):
        found: dict[str, object] = {"__name__": "settings"}
        exec(compile(body, "settings", "exec"), found)  # noqa: S102 - our own page
        if url := found.get("result_backend"):
            open_store(str(url))


def test_page_recommend_and_init_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("recommend", "init"):
        page = Page(f"docs/{name}.md", {})
        for command, expected in page.commands():
            assert expected in run(command, tmp_path)
        check_settings(page)
    assert {path.name for path in tmp_path.iterdir()} == {"shop", "shop2", "shop3"}
    assert (tmp_path / "shop" / "compose.yaml").exists()


def test_readme_works(tmp_path: Path, postgres_url: str, redis_url: str) -> None:
    page = Page("README.md", {EXAMPLE_DATABASE: postgres_url, EXAMPLE_BROKER: redis_url})
    page.write_files(tmp_path)
    check_settings(page)
    with Worker("tasks", cwd=tmp_path):
        for command, expected in page.commands():
            if not command.startswith(("make ", "pip ", "celery ")):
                assert expected in run(command, tmp_path)


def test_page_payloads_works(tmp_path: Path, postgres_url: str, redis_url: str) -> None:
    page = Page("docs/payloads.md", {EXAMPLE_DATABASE: postgres_url, EXAMPLE_BROKER: redis_url})
    page.write_files(tmp_path)
    with Worker("shop", cwd=tmp_path):
        for program in ("client", "unstorable", "accepting", "compressed"):
            run(f"python {program}.py", tmp_path)
    (query,) = page.of("sql")
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute(query.encode()).fetchall() == [("19.90",)]


def test_page_configuration_works(tmp_path: Path, postgres_server: PostgresServer, redis_server: RedisServer) -> None:
    url = urlsplit(postgres_server.create_database())
    password = unquote(url.password or "").replace("\\", "\\\\").replace("'", "\\'")
    page = Page("docs/configuration.md", {})
    page.write_files(tmp_path)
    (variables,) = page.of("ini")
    real = {
        "DB_USER": url.username,
        "DB_PASSWORD": f"'{password}'",
        "DB_HOST": f"{url.hostname}\nDB_PORT={url.port}",
        "DB_NAME": url.path[1:],
        "REDIS_PORT": redis_server.port,
    }
    for name, value in real.items():
        variables = re.sub(rf"(?m)^{name}=.*$", lambda match: f"{match[0].partition('=')[0]}={value}", variables)  # noqa: B023
    (tmp_path / ".env").write_text(variables, encoding="utf-8")
    for command, _ in page.commands():
        assert url.path[1:] in run(command, tmp_path)
    with Worker("shop", cwd=tmp_path):
        assert f"/{url.path[1:]}" in run("rootcellar history", tmp_path)


def test_page_rpc_works(tmp_path: Path, rabbit_url: str) -> None:
    url = urlsplit(rabbit_url)
    page = Page("docs/rpc.md", {"BROKER_HOST=localhost": f"BROKER_PORT={url.port}\nBROKER_VHOST={url.path[1:]}"})
    page.write_files(tmp_path)
    (variables,) = page.of("ini")
    (tmp_path / ".env").write_text(variables, encoding="utf-8")
    (command,) = [command for command, _ in page.commands()]
    assert "All are as expected" in run(command, tmp_path)
    client = "import shop; from rootcellar.rpc import check_round_trip; check_round_trip(shop.app); "
    with Worker("shop", cwd=tmp_path):
        assert run(f"python -c '{client}print(shop.add.delay(2, 3).get(timeout=20))'", tmp_path) == "5\n"


def test_page_configuration_lists_every_variable() -> None:
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert fill_in(page) == page, "run: python -m tools.settings_reference docs/configuration.md"


def test_every_error_is_documented() -> None:
    page = (ROOT / "docs/errors.md").read_text(encoding="utf-8")

    def below(cls: type[RootcellarError]) -> Iterator[type[RootcellarError]]:
        for child in cls.__subclasses__():
            if child.__module__.startswith("rootcellar"):
                yield child
                yield from below(child)

    assert StoreError in set(below(RootcellarError)), all_errors
    for cls in below(RootcellarError):
        retryable = "yes" if cls.retryable else "no"
        assert re.search(rf"^\| `{cls.__name__}` \| {retryable} \|", page, re.MULTILINE), f"{cls.__name__} {retryable}"
