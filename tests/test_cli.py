"""The command line: every command, as a user runs it."""

from __future__ import annotations

import json
import os
import pickle
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer
from celery import Celery
from celery.backends.database.session import ResultModelBase
from celery.result import AsyncResult
from rich.cells import cell_len

from rootcellar import __version__
from rootcellar.cli import app
from rootcellar.cli.times import parse_moment, parse_span, show_moment, show_seconds
from rootcellar.cli.values import json_value, outcome, traceback_text
from rootcellar.errors import SchemaMissing
from rootcellar.payloads import make_key
from rootcellar.payloads.encryption import Sealer
from rootcellar.payloads.keys import read_keys
from rootcellar.records import Payload, TaskRecord
from rootcellar.stores import Store, open_store
from rootcellar.stores.mysql.url import connection_settings
from tests.commands import Ended, assert_one_line, execute, run, run_here, run_on_terminal, run_without
from tests.servers import IN_URL, PostgresServer, _postgres_bin, free_port

NOW = datetime.now(timezone.utc)


def leaves(command: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the full names of all commands, without groups."""
    if not hasattr(command, "commands"):
        return {" ".join(path): command}
    found = [leaves(each, (*path, name)) for name, each in command.commands.items()]
    return {name: each for some in found for name, each in some.items()}


LEAVES = leaves(typer.main.get_command(app))
COMMANDS = (*LEAVES, "schema")
#: these open no store, or choose it in another way
WITHOUT_STORE_OPTIONS = {
    *("check", "demo", "explain", "init", "key", "recommend", "settings"),
    *("retention show", "retention explain"),
    # they open two
    *("copy", "import", "verify"),
    *(f"migrate {name}" for name in ("guide", "plan", "start", "status", "advance", "postpone", "rate", "rollback")),
    "migrate retire",
}
#: the options of a command that opens a store, with their help
STORE_OPTIONS = {
    "--backend": "The result backend, such as postgresql://… or sqlite:///results.sqlite3",
    "--app": "Your Celery app, named as for `celery -A`",
    "--task-table": "The task table, if not celery_taskmeta",
    "--group-table": "The group table, if not celery_groupmeta",
    "--schema": "The database schema that holds the tables",
}
HOSTILE = '\x1b[31m[red]\u202e\nnew line\x00"'


class Trap:
    """A class whose pickle creates a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def payload(value: Any) -> Payload:
    return Payload(json.dumps(value).encode())


def record(task_id: str, state: str, name: str, minutes_ago: int, **fields: Any) -> TaskRecord:
    """Return a record of a task that waited for 2 s, ran for 3 s, and ended some time ago."""
    done = NOW - timedelta(minutes=minutes_ago)
    times = {"sent_at": done - timedelta(seconds=5), "started_at": done - timedelta(seconds=3), "done_at": done}
    return TaskRecord(task_id=task_id, state=state, name=name, **{**times, **fields})


def uuid_like(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012}"


RECORDS = (
    record(uuid_like(1), "SUCCESS", "shop.pay", 1, result=payload({"sum": 12.5, "whom": "Zoë 美咲"})),
    record(
        uuid_like(2),
        "FAILURE",
        "shop.pay",
        50,
        result=payload({"exc_type": "Declined", "exc_message": ["no money", 7], "exc_module": "shop"}),
        traceback="Traceback (most recent call last):\n  line\x1b[2J\nDeclined: no money",
    ),
    record(uuid_like(3), "SUCCESS", "shop.report", 60 * 30, result=Payload(b'[NaN, -Infinity, "x"]')),
    record(uuid_like(4), "SUCCESS", "mail.send", 60 * 24 * 5, result=payload(HOSTILE)),
    record(uuid_like(5), "PACKING", "shop.pack", 2, result=payload({"box": 3}), done_at=None),
)


def keep(url: str, *records: TaskRecord) -> Store:
    store = open_store(url)
    for one in records:
        store.put(one)
    return store


@pytest.fixture(scope="module")
def sqlite_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a SQLite file with RECORDS; do not change it."""
    url = f"sqlite:///{tmp_path_factory.mktemp('kept')}/kept.sqlite3"
    keep(url, *RECORDS).close()
    return url


def ids(text: str) -> list[str]:
    """Return the ids in a JSON history, as the numbers from which they were made."""
    return [str(int(one["task_id"][-12:])) for one in json.loads(text)]


# -- the command itself


def test_version_is_printed() -> None:
    assert run("--version") == Ended(0, f"rootcellar {__version__}\n", "")


def test_help_of_the_command_imports_no_command() -> None:
    program = "import sys; from rootcellar.cli import app; app(['--help'], standalone_mode=False); print(*sys.modules)"
    loaded = execute([sys.executable, "-c", program]).out.rpartition("\n\n")[2].split()
    heavy = {"celery", "kombu", "rich", "pydantic", "jinja2", "rootcellar.stores", "rootcellar.cli.history"}
    assert "rootcellar.cli" in loaded
    assert heavy & {*loaded} == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_that_fits_80_columns(name: str) -> None:
    ended = run_here(*name.split(), "--help")
    assert (ended.status, ended.err) == (0, "")
    assert re.search(rf"Examples?:\n +rootcellar {name}", ended.out)
    assert max(len(line) for line in ended.out.splitlines()) <= 80


@pytest.mark.parametrize("name", LEAVES)
def test_every_option_has_help_and_means_the_same_in_each_command(name: str) -> None:
    helps = {option.opts[0]: option.help for option in LEAVES[name].params if option.param_type_name == "option"}
    assert all(helps.values()), helps
    if name not in WITHOUT_STORE_OPTIONS:
        assert {option: helps.get(option) for option in STORE_OPTIONS} == STORE_OPTIONS
    assert helps.get("--json", "Print JSON") == "Print JSON"
    assert helps.get("--app", STORE_OPTIONS["--app"]) == STORE_OPTIONS["--app"]


def test_tables_of_a_command_are_those_of_its_options(tmp_path: Path) -> None:
    options = ["-b", f"sqlite:///{tmp_path}/one.sqlite3", "--task-table", "my_tasks", "--group-table", "my_groups"]
    assert run_here("schema", "create", *options).status == 0
    with sqlite3.connect(tmp_path / "one.sqlite3") as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert {"my_tasks", "my_groups"} <= names
    assert run_here("history", *options, "--json") == Ended(0, "[]\n", "")
    assert run_here("history", *options[:2]).status == 1


@pytest.mark.parametrize(
    "args",
    [
        ["bogus"],
        ["history", "--bogus"],
        ["history", "--limit", "0"],
        ["history", "--since", "soon"],
        ["history", "--task", "*a*b*c*d*e*f*g*h*"],
        ["history", "--app", "x", "--backend", "sqlite:///x"],
        ["history", "--app", "x", "--task-table", "y"],
        ["recommend", "--tasks-per-day", "many"],
        ["show"],
        ["schema", "adopt", "--keep", "soon", "-b", "sqlite:///x"],
        ["demo", "--file", "x", "--backend", "sqlite:///y"],
    ],
)
def test_wrong_use_ends_with_status_2_and_the_reason(args: list[str]) -> None:
    ended = run_here(*args)
    assert (ended.status, ended.out) == (2, "")
    assert "Error: " in ended.err


# -- history


def test_history_in_a_pipe_is_one_plain_line_for_each_task(sqlite_url: str) -> None:
    ended = run("history", "-b", sqlite_url)
    heading, *lines = ended.out.splitlines()
    assert ended.status == 0
    zone = str(datetime.now().astimezone().tzname())
    names = ["STATE", "TASK", "ID", "SENT", zone, "DONE", zone, "WAIT", "RUN", "RESULT", "OR", "ERROR"]
    assert heading.split() == names
    assert [line.split()[2] for line in lines] == [uuid_like(number) for number in (5, 1, 2, 3, 4)]
    assert re.search(r'SUCCESS +shop\.pay .* 2\.0 s +3\.0 s +\{"sum": 12\.5, "whom": "Zoë 美咲"\}$', lines[1])
    assert lines[2].endswith('Declined("no money", 7)')
    assert "\x1b" not in ended.out


@pytest.mark.parametrize("columns", [80, 100, 120, 200])
def test_history_has_one_line_for_each_task_on_any_terminal(sqlite_url: str, columns: int) -> None:
    ended = run_on_terminal("history", "-b", sqlite_url, columns=columns)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", ended.out)
    assert ended.status == 0
    assert "\x1b[32m" in ended.out
    assert max(cell_len(line) for line in plain.splitlines()) <= columns
    heading, *lines = plain.splitlines()
    assert datetime.now().astimezone().tzname() in heading
    assert len(lines) == 5
    assert "Declined(" in plain or columns == 80, "these ids differ only at their ends, and take 36 columns"
    shown = [line.split()[2] for line in lines]
    assert shown == [uuid_like(number)[: len(shown[0])] for number in (5, 1, 2, 3, 4)]
    assert len(set(shown)) == 5


def test_ids_are_shortened_only_as_far_as_they_differ(sqlite_url: str) -> None:
    ended = run_on_terminal("history", "-b", sqlite_url, "--state", "RETRY", "--state", "FAILURE", columns=80)
    line = re.sub(r"\x1b\[[0-9;]*m", "", ended.out).splitlines()[1]
    assert line.split()[2] == uuid_like(2)[:8]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "5 1 2 3 4"),
        (["--limit", "2"], "5 1"),
        (["--state", "SUCCESS"], "1 3 4"),
        (["--state", "failure", "--state", "PACKING"], "5 2"),
        (["--task", "shop.pay"], "1 2"),
        (["--task", "shop.*", "--state", "SUCCESS"], "1 3"),
        (["--task", "mail.send", "--task", "*.report"], "3 4"),
        (["--since", "2h"], "5 1 2"),
        (["--since", "3d"], "5 1 2 3"),
        (["--since", "40h", "--until", "30m"], "2 3"),
        (["--until", (NOW - timedelta(days=2)).isoformat()], "4"),
        (["--since", f"{NOW - timedelta(days=2):%Y-%m-%d}", "--until", f"{NOW - timedelta(hours=2):%FT%TZ}"], "3"),
        (["--state", "REVOKED"], ""),
    ],
)
def test_history_is_filtered_by_its_options(sqlite_url: str, options: list[str], expected: str) -> None:
    ended = run_here("history", "-b", sqlite_url, "--json", *options)
    assert (ended.status, "rootcellar:" in ended.err) == (0, False)
    assert ids(ended.out) == expected.split()


def test_history_says_that_there_is_more(sqlite_url: str) -> None:
    assert "There are more" in run_here("history", "-b", sqlite_url, "--limit", "2").err
    assert "There are more" not in run_here("history", "-b", sqlite_url, "--limit", "5").err


def test_json_is_strict_and_has_times_and_durations(sqlite_url: str) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    ended = run("history", "-b", sqlite_url, "--json")
    found = {one["task_id"]: one for one in json.loads(ended.out, parse_constant=refuse)}
    paid = found[uuid_like(1)]
    assert paid["result"] == {"sum": 12.5, "whom": "Zoë 美咲"}
    assert datetime.fromisoformat(paid["done_at"]) == NOW - timedelta(minutes=1)
    assert (paid["queue_wait_seconds"], paid["run_seconds"]) == (2.0, 3.0)
    assert {"state", "name", "args", "kwargs", "traceback", "worker", "queue", "retries", "group_id", "parent_id"} <= {
        *paid
    }
    assert found[uuid_like(3)]["result"] == ["NaN", "-Infinity", "x"]
    assert found[uuid_like(4)]["result"] == HOSTILE


def test_results_cannot_control_the_terminal(sqlite_url: str) -> None:
    for ended in (run_here("history", "-b", sqlite_url), run_here("show", uuid_like(4), "-b", sqlite_url)):
        assert ended.status == 0
        assert "[red]" in ended.out
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", ended.out)


def test_pickle_is_never_read(tmp_path: Path) -> None:
    url, trap = f"sqlite:///{tmp_path}/trap.sqlite3", tmp_path / "sprung"
    body = pickle.dumps(Trap(trap))
    stored = Payload(body, "application/x-python-serialize", "binary")
    keep(url, record("a", "SUCCESS", "t", 1, result=stored, args=stored)).close()
    summary = f"<application/x-python-serialize, {len(body)} bytes>"
    assert summary in run_here("history", "-b", url).out
    assert summary in run_here("show", "a", "-b", url).out
    assert json.loads(run_here("show", "a", "-b", url, "--json").out)["result"] == summary
    assert not trap.exists()


def test_empty_history_says_so(tmp_path: Path, sqlite_url: str) -> None:
    url = f"sqlite:///{tmp_path}/empty.sqlite3"
    assert run_here("schema", "create", "-b", url).status == 0
    assert run_here("history", "-b", url).out.startswith("No results yet in sqlite ")
    assert run_here("history", "-b", url, "--json").out == "[]\n"
    assert run_here("history", "-b", sqlite_url, "--state", "REVOKED").out.startswith("No task matches in sqlite ")


def test_json_keeps_every_alphabet_and_is_safe_on_a_terminal(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/alphabets.sqlite3"
    text = "€ 美咲 \x1b[31m \x7f \u202e \u200b \U000e0041"
    keep(url, record("a", "SUCCESS", "t", 1, result=Payload(json.dumps(text).encode()))).close()
    for ended in (run("history", "-b", url, "--json"), run("show", "a", "-b", url, "--json")):
        assert "€ 美咲" in ended.out
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202e\U000e0041]", ended.out)
        (found,) = json.loads(ended.out) if ended.out.startswith("[") else [json.loads(ended.out)]
        assert found["result"] == text


def test_history_lists_the_tasks_of_a_queue_and_of_a_worker(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/queues.sqlite3"
    keep(
        url,
        record("a", "SUCCESS", "t", 1, queue="mail", worker="one@host"),
        record("b", "SUCCESS", "t", 1, queue="reports", worker="two@host"),
    ).close()

    def listed(*options: str) -> list[str]:
        return [one["task_id"] for one in json.loads(run_here("history", "-b", url, "--json", *options).out)]

    assert listed("--queue", "mail") == ["a"]
    assert listed("--worker", "two@*") == ["b"]
    assert listed("--queue", "mail", "--worker", "two@*") == []


# -- show


def test_show_accepts_a_unique_beginning_of_an_id(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ids.sqlite3"
    names = ["abc1", "abc2", "abd", "xyz", "x%"]
    keep(url, *(record(name, "SUCCESS", "t", 1) for name in names)).close()
    assert json.loads(run_here("show", "xy", "-b", url, "--json").out)["task_id"] == "xyz"
    assert json.loads(run_here("show", "abc1", "-b", url, "--json").out)["task_id"] == "abc1"
    assert_one_line(run_here("show", "abc", "-b", url), "several ids begin with abc", "abc1, abc2")
    assert_one_line(run_here("show", "%", "-b", url), "nothing is stored of task %")


def test_python_m_rootcellar_is_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rootcellar", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"rootcellar {__version__}\n")


@pytest.mark.parametrize("args", [[], ["schema"]])
def test_help_shows_whole_summaries(args: list[str]) -> None:
    summaries = run_here(*args, "--help").out.partition("Commands:\n")[2]
    assert summaries
    assert "..." not in summaries


def test_show_prints_every_field_of_a_task(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/one.sqlite3"
    full = record(
        "the-id",
        "SUCCESS",
        "shop.pay",
        1,
        result=payload({"items": [1, {"deep": "x" * 300}]}),
        args=payload([1, "two"]),
        kwargs=payload({"k": None}),
        children=payload([[["child-id", "the-id"], None], [["group-of-two", None], [[["member", None], None]]]]),
        stamps=payload({"release": "r7"}),
        **{"queue": "q", "worker": "w@host", "retries": 2, "group_id": "g", "group_index": 4},
        **{"parent_id": "p", "root_id": "r", "expires_at": NOW + timedelta(days=1)},
    )
    keep(url, full).close()
    text = run_here("show", "the-id", "-b", url).out
    for word in ("w@host", '[1, "two"]', '{"k": null}', "g, place 4", '{"release": "r7"}', "x" * 300, "child-id"):
        assert word in text
    assert '    "items": [\n' in text
    assert re.search(r"group of 1: nothing stored\n.* member\n", text)
    shown = json.loads(run_here("show", "the-id", "-b", url, "--json").out)
    assert shown["children"][0][0] == ["child-id", "the-id"]
    assert (shown["stamps"], shown["group_index"], shown["retries"]) == ({"release": "r7"}, 4, 2)


def test_show_leaves_out_a_relation_of_a_task_to_itself(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/one.sqlite3"
    children = payload([[["the-id", None], None], [["child-id", None], None]])
    keep(url, record("the-id", "FAILURE", "shop.pay", 1, children=children, parent_id="the-id")).close()
    text = run_here("show", "the-id", "-b", url).out
    assert not re.search(r"^ *parent", text, re.MULTILINE)
    assert [line.split()[-1] for line in text.split("Workflow")[1].splitlines()[3:5]] == ["the-id", "child-id"]
    shown = json.loads(run_here("show", "the-id", "-b", url, "--json").out)
    assert (shown["parent_id"], shown["children"]) == (None, [[["child-id", None], None]])


def test_show_prints_a_failure_with_its_traceback(sqlite_url: str) -> None:
    text = run_here("show", uuid_like(2), "-b", sqlite_url).out
    assert text.startswith("FAILURE  shop.pay\n")
    assert 'Error\n  Declined("no money", 7)\n' in text
    assert "Traceback\n  Traceback (most recent call last):\n    line\\x1b[2J\n  Declined: no money\n" in text


def test_show_of_an_unknown_id_is_a_one_line_error(sqlite_url: str) -> None:
    for options in ([], ["--json"]):
        assert_one_line(run_here("show", "nobody\x1b[2J", "-b", sqlite_url, *options), "nobody\\x1b[2J", "kept.sqlite3")


# -- which store


def test_environment_names_the_store_without_an_option(sqlite_url: str) -> None:
    for name in ("ROOTCELLAR_BACKEND", "CELERY_RESULT_BACKEND"):
        assert len(ids(run("history", "--json", env={name: f"rootcellar+{sqlite_url}"}).out)) == len(RECORDS)
    other = {"ROOTCELLAR_BACKEND": sqlite_url, "CELERY_RESULT_BACKEND": "redis://nowhere"}
    assert len(ids(run("history", "--json", env=other).out)) == len(RECORDS)


@pytest.mark.parametrize("command", ["history", "show x", "rekey", "drain", "schema status"])
def test_command_without_a_store_is_wrong_use(command: str, tmp_path: Path) -> None:
    ended = run(*command.split(), cwd=tmp_path)
    assert (ended.status, ended.out) == (2, "")
    assert "no result backend is given" in ended.err
    assert all(name in ended.err for name in ("--backend", "--app", "ROOTCELLAR_BACKEND"))


def test_app_names_the_store_and_its_tables(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "import celery\n"
        f"app = celery.Celery('shop', backend='rootcellar+sqlite:///{tmp_path}/app.sqlite3')\n"
        "app.conf.database_table_names = {'task': 'our_tasks', 'group': 'our_groups'}\n"
        "stock = celery.Celery('stock', backend='cache+memory://')\n"
        "short = celery.Celery('short', backend='postgresql://u:Pa55@h/d')\n"
    )
    (tmp_path / "noisy.py").write_text("from shop import app\nprint('noise')\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    assert run("schema", "create", "-A", "shop", cwd=tmp_path).status == 0
    assert "our_tasks" in str(
        sqlite3.connect(tmp_path / "app.sqlite3").execute("SELECT name FROM sqlite_master").fetchall()
    )
    assert json.loads(run("history", "-A", "noisy:app", "--json", cwd=tmp_path).out) == []
    assert_one_line(run("history", "-A", "shop:stock", cwd=tmp_path), "cache+memory://", "which is not rootcellar")
    forgotten = run("history", "-A", "shop:short", cwd=tmp_path)
    assert_one_line(forgotten, "result_backend is postgresql", "write rootcellar+postgresql://")
    assert "Pa55" not in forgotten.err
    assert_one_line(run("history", "-A", "nothing", cwd=tmp_path), "No module named 'nothing'", "--app nothing")
    assert_one_line(run("history", "-A", "broken", cwd=tmp_path), "ZeroDivisionError")


def test_tables_can_have_other_names(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/named.sqlite3"
    tables = ["--task-table", "t", "--group-table", "g"]
    assert run_here("schema", "create", "-b", url, *tables).status == 0
    assert run_here("history", "-b", url, *tables).status == 0
    assert_one_line(run_here("history", "-b", url), "there are no results here yet")


# -- errors


def test_reading_creates_no_file_and_no_tables(tmp_path: Path, postgres_url: str) -> None:
    for args in (["history"], ["show", "x"], ["schema", "status"]):
        for url in (f"sqlite:///{tmp_path}/none.sqlite3", postgres_url):
            assert run_here(*args, "-b", url).status == 1
    assert_one_line(run_here("history", "-b", f"sqlite:///{tmp_path}/none.sqlite3"), "none.sqlite3", "schema create")
    assert list(tmp_path.iterdir()) == []
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT to_regclass('celery_taskmeta')").fetchone() == (None,)


def test_wrong_password_is_a_one_line_error(postgres_url: str) -> None:
    wrong = re.sub(r":[^:@]+@", ":s3cret-guess@", postgres_url)
    for args in (["history"], ["schema", "create"], ["demo", "--once"]):
        ended = (run if args[0] in ("history", "demo") else run_here)(*args, "-b", wrong)
        assert_one_line(ended, "password authentication failed", "127.0.0.1", "check", secret="s3cret-guess")


def test_missing_database_is_a_one_line_error(postgres_server: PostgresServer) -> None:
    url = postgres_server.database_url("not_there")
    assert_one_line(run("history", "-b", url), "not_there", "CREATE DATABASE", secret=IN_URL)


def test_server_that_is_down_is_a_one_line_error() -> None:
    port = free_port()
    ended = run("history", "-b", f"postgresql://u:s3cret@127.0.0.1:{port}/db")
    assert_one_line(ended, "refused", f"127.0.0.1:{port}", "see whether the server runs", secret="s3cret")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("oracle+fancy://u:s3cret@host/db", ["oracle+fancy", "--backend", "postgresql", "sqlite"]),
        ("postgres", ["not a URL: 'postgres'", "--backend"]),
        ("postgresql:/u:s3cret@host/db", ["not a URL: 'postgresql'"]),
        ("postgresql://u:s3cret/more@host/db", ["%XX"]),
        ("postgresql://u:half@s3cret@host/db", ["%XX"]),
        ("postgresql://host/db?user=u&password=s3cret", ["in its query"]),
        ("sqlite://u:s3cret@host/file", ["names no file"]),
    ],
)
def test_unusable_url_is_a_one_line_error(url: str, words: list[str]) -> None:
    assert_one_line(run_here("history", "-b", url), *words, secret="s3cret")


@pytest.mark.parametrize(
    ("module", "url", "extra"),
    [
        ("psycopg", "postgresql://u:s3cret@host/db", "postgres"),
        ("pymysql", "mysql://u:s3cret@host/db", "mysql"),
        ("redis", "redis://u:s3cret@host/0", "redis"),
        ("pymongo", "mongodb://u:s3cret@host/db", "mongodb"),
    ],
)
def test_missing_driver_is_a_one_line_error(module: str, url: str, extra: str) -> None:
    ended = run_without(module, "show", "some-task", "-b", url)
    assert module in ended.err.lower()
    assert_one_line(ended, f"pip install 'rootcellar[{extra}]'", secret="s3cret")


def test_read_only_file_is_a_one_line_error_for_a_write(tmp_path: Path) -> None:
    path = tmp_path / "sealed.sqlite3"
    path.touch()
    path.chmod(0o444)
    # root can write every file, unless it drops that capability
    prefix = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
    ended = run("schema", "create", "-b", f"sqlite:///{path}", prefix=prefix)
    assert_one_line(ended, "readonly", str(path), "make the file, its -wal and -shm and their folder writable")


def test_read_only_file_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "sealed.sqlite3"
    keep(f"sqlite:///{path}", RECORDS[0]).close()
    path.chmod(0o444)
    prefix = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
    assert uuid_like(1) in run("history", "-b", f"sqlite:///{path}", prefix=prefix).out


# -- schema


def backend_of(url: str, **conf: Any) -> tuple[Celery, Any]:
    """Return an app with its results there, and its backend."""
    made = Celery("test", backend=f"rootcellar+{url}", broker="memory://", set_as_current=False)
    made.conf.update(conf)
    return made, made.backend


@pytest.fixture(params=["postgres", "sqlite", "mysql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/results.sqlite3"
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def run_sql(database: str) -> Callable[[str], None]:
    """Runs a script in the database like a DBA: in psql, in MySQL's client, or in SQLite's shell."""

    def in_psql(script: str) -> None:
        psql = [str(_postgres_bin() / "psql"), "-v", "ON_ERROR_STOP=1", "-q", "-c", script, database]
        assert execute(psql) == Ended(0, "", "")

    def in_mysql(script: str) -> None:
        settings = connection_settings(database, {})
        client = ["mariadb", "-h", settings["host"], "-P", str(settings["port"]), "-u", settings["user"], "-e", script]
        assert execute([*client, settings["database"]], env={"MYSQL_PWD": settings["password"].decode()}) == Ended(
            0, "", ""
        )

    def in_sqlite(script: str) -> None:
        sqlite3.connect(database.removeprefix("sqlite:///")).executescript(script)

    return {"sqlite": in_sqlite, "mysql": in_mysql, "postgresql": in_psql}[database.partition(":")[0]]


@pytest.mark.parametrize("options", [[], ["--task-table", "odd Name", "--group-table", "groups", "--schema", "Jobs"]])
def test_printed_sql_creates_the_tables(database: str, run_sql: Callable[[str], None], options: list[str]) -> None:
    names = {"task": "odd Name", "group": "groups"} if options else None
    schemas = {"task": "Jobs", "group": "Jobs"} if options else None
    conf = {"database_create_tables_at_setup": False, "database_table_names": names, "database_table_schemas": schemas}
    celery_app, backend = backend_of(database, **conf)
    with pytest.raises(SchemaMissing):
        backend.store.check()
    printed = run_here("schema", "sql", "-b", database, *options)
    assert (printed.status, printed.err) == (0, "")
    run_sql(printed.out)
    assert run_here("schema", "status", "-b", database, *options).status == 0
    backend.mark_as_done("a", {"sum": 1})
    assert AsyncResult("a", app=celery_app).get(timeout=30) == {"sum": 1}
    assert "SUCCESS" in run_here("history", "-b", database, *options).out
    backend.store.close()


def test_schema_create_does_nothing_without_tables(redis_url: str) -> None:
    """A deployment that creates tables still works when its results move to Redis."""
    for command in ("create", "upgrade", "status"):
        ended = run_here("schema", command, "-b", redis_url)
        assert (ended.status, ended.err) == (0, "")
        assert "needs none: it is ready" in ended.out
    status = run_here("schema", "status", "--json", "-b", redis_url)
    assert json.loads(status.out)["up_to_date"] is True


def test_schema_sql_makes_no_connection() -> None:
    assert "CREATE TABLE" in run_here("schema", "sql", "-b", "postgresql://").out


def test_schema_commands_report_the_state_of_the_tables(database: str) -> None:
    before = run_here("schema", "status", "-b", database)
    assert (before.status, before.err) == (1, "")
    assert "there are no tables yet" in before.out
    assert_one_line(run_here("schema", "upgrade", "-b", database), "no tables to upgrade", "schema create")
    for name in ("create", "create", "upgrade", "status"):
        ended = run_here("schema", name, "-b", database)
        assert ended.status == 0
        assert "the tables are up to date" in ended.out
        assert IN_URL not in ended.out
    found = json.loads(run_here("schema", "status", "-b", database, "--json").out)
    assert found["up_to_date"] is True
    assert found["version"] == found["wanted"]


@pytest.fixture
def celerys_tables(database: str) -> str:
    """URL of a database in which Celery's own backend stored a success, a failure and a group."""
    # SQLAlchemy has other default drivers for PostgreSQL and MySQL
    url = database.replace("postgresql:", "postgresql+psycopg:").replace("mysql:", "mysql+pymysql:")
    old = Celery("old", backend=f"db+{url}", broker="memory://", set_as_current=False)
    # Celery 5.4 creates its tables once in a process, not once for each database
    ResultModelBase.metadata.create_all(old.backend.ResultSession().get_bind())
    old.backend.mark_as_done("good", {"kept": [1, "é"]})
    old.backend.mark_as_failure("bad", ValueError("no", 3), traceback="the traceback")
    old.GroupResult("old-group", [AsyncResult("good", app=old)]).save()
    old.backend.ResultSession().get_bind().dispose()
    return database


def test_celerys_own_tables_are_a_one_line_error(celerys_tables: str) -> None:
    for args in (["history"], ["schema", "create"], ["schema", "upgrade"], ["demo", "--once"]):
        ended = (run if args[0] in ("history", "demo") else run_here)(*args, "-b", celerys_tables)
        assert_one_line(ended, "celery_taskmeta", "not rootcellar's", "schema adopt", secret=IN_URL)
    status = run_here("schema", "status", "-b", celerys_tables)
    assert status.status == 1
    assert "schema adopt" in status.out
    assert json.loads(run_here("schema", "status", "-b", celerys_tables, "--json").out)["foreign"] != []


def test_adopt_keeps_old_results_readable(celerys_tables: str) -> None:
    ended = run_here("schema", "adopt", "--yes", "-b", celerys_tables, "--keep", "30d")
    assert ended.status == 0
    assert "celery_taskmeta_before_rootcellar" in ended.out
    assert "stay readable" in ended.out
    assert "for 30d after they were done" in ended.out
    assert "result_accept_content lists pickle" in ended.out
    celery_app, backend = backend_of(celerys_tables)
    assert AsyncResult("good", app=celery_app).get(timeout=30) == {"kept": [1, "é"]}
    bad = AsyncResult("bad", app=celery_app)
    assert (bad.state, bad.traceback) == ("FAILURE", "the traceback")
    assert isinstance(bad.result, ValueError)
    assert bad.result.args == ("no", 3)
    assert celery_app.GroupResult.restore("old-group").get(timeout=30) == [{"kept": [1, "é"]}]
    listed = run_here("history", "-b", celerys_tables).out
    assert "good" in listed
    assert "bad" in listed
    backend.mark_as_done("new", 1)
    backend.mark_as_done("bad", 2)  # now it is in rootcellar's own table too

    def ids_of(*options: str) -> list[str]:
        return [one["task_id"] for one in json.loads(run_here("history", "-b", celerys_tables, "--json", *options).out)]

    assert sorted(ids_of()[:2]) == ["bad", "new"]
    assert ids_of()[2:] == ["good"]
    assert ids_of("--limit", "1") == ids_of()[:1]
    assert ids_of("--state", "FAILURE") == []
    assert sorted(ids_of("--state", "SUCCESS")) == ["bad", "good", "new"]
    assert ids_of("--since", "1h", "--task", "none") == []
    assert '"kept"' in run_here("show", "good", "-b", celerys_tables).out
    again = run_here("schema", "adopt", "-b", celerys_tables)
    assert again.status == 0
    assert "old results are read from" in again.out
    backend.store.close()


def test_adopt_asks_on_a_terminal(celerys_tables: str) -> None:
    refused = run_on_terminal("schema", "adopt", "-b", celerys_tables, typed="n\n")
    assert refused.status == 1
    assert "celery_taskmeta" in refused.out
    assert "Nothing was changed." in refused.out
    assert run_here("schema", "status", "-b", celerys_tables).status == 1
    agreed = run_on_terminal("schema", "adopt", "-b", celerys_tables, typed="y\n")
    assert agreed.status == 0
    assert run_here("schema", "status", "-b", celerys_tables).status == 0


def test_adopt_without_a_terminal_needs_yes(celerys_tables: str) -> None:
    refused = run_here("schema", "adopt", "-b", celerys_tables)
    assert (refused.status, refused.out) == (2, "")
    assert "--yes" in refused.err
    assert "celery_taskmeta" in refused.err
    assert json.loads(run_here("schema", "status", "-b", celerys_tables, "--json").out)["foreign"] != []


def test_adopt_and_unadopt_print_their_plan(celerys_tables: str) -> None:
    planned = run_here("schema", "adopt", "--dry-run", "-b", celerys_tables)
    assert planned.status == 0
    assert "celery_taskmeta_before_rootcellar" in planned.out
    found = json.loads(run_here("schema", "adopt", "--dry-run", "--json", "-b", celerys_tables).out)
    assert [pair["to"].strip('`"') for pair in found["renamed"]] == [
        "celery_taskmeta_before_rootcellar",
        "celery_tasksetmeta_before_rootcellar",
    ]
    assert run_here("schema", "unadopt", "--dry-run", "-b", celerys_tables).status == 1
    assert run_here("schema", "status", "-b", celerys_tables).status == 1
    assert run_here("schema", "adopt", "--yes", "-b", celerys_tables).status == 0
    assert run_here("schema", "adopt", "--dry-run", "-b", celerys_tables).status == 0
    back = json.loads(run_here("schema", "unadopt", "--dry-run", "--json", "-b", celerys_tables).out)
    assert (back["dry_run"], back["results"]) == (True, 0)
    assert back["renamed"] == [{"from": pair["to"], "to": pair["from"]} for pair in found["renamed"]]
    assert run_here("schema", "status", "-b", celerys_tables).status == 0


def test_unadopt_restores_celerys_tables(celerys_tables: str) -> None:
    run_here("schema", "adopt", "--yes", "-b", celerys_tables)
    _, backend = backend_of(celerys_tables)
    backend.mark_as_done("new", 1)
    backend.store.close()
    kept = run_here("schema", "unadopt", "--yes", "-b", celerys_tables)
    assert_one_line(kept, "have 1 results", "--drop-results")
    assert run_here("schema", "unadopt", "--dry-run", "-b", celerys_tables).status == 1
    refused = run_here("schema", "unadopt", "--drop-results", "-b", celerys_tables)
    assert refused.status == 2
    assert "delete 1 results" in refused.err
    assert run_here("schema", "status", "-b", celerys_tables).status == 0
    ended = run_here("schema", "unadopt", "--yes", "--drop-results", "-b", celerys_tables)
    assert (ended.status, ended.err) == (0, "")
    url = celerys_tables.replace("postgresql:", "postgresql+psycopg:").replace("mysql:", "mysql+pymysql:")
    stock = Celery("stock", backend=f"db+{url}", broker="memory://", set_as_current=False)
    assert stock.AsyncResult("good").get(timeout=30) == {"kept": [1, "é"]}
    stock.backend.mark_as_done("another", 2)
    stock.backend.ResultSession().get_bind().dispose()
    assert_one_line(run_here("schema", "unadopt", "--yes", "-b", celerys_tables), "nothing was adopted")
    # and there once more
    assert run_here("schema", "adopt", "--yes", "-b", celerys_tables).status == 0
    assert '"kept"' in run_here("show", "good", "-b", celerys_tables).out


def test_unadopt_asks_on_a_terminal(celerys_tables: str) -> None:
    run_here("schema", "adopt", "--yes", "-b", celerys_tables)
    refused = run_on_terminal("schema", "unadopt", "-b", celerys_tables, typed="n\n")
    assert refused.status == 1
    assert "Nothing was changed." in refused.out
    assert run_here("schema", "status", "-b", celerys_tables).status == 0
    assert run_on_terminal("schema", "unadopt", "-b", celerys_tables, typed="y\n").status == 0
    assert run_here("schema", "status", "-b", celerys_tables).status == 1


def test_missing_column_is_reported_and_added(database: str, run_sql: Callable[[str], None]) -> None:
    assert run_here("schema", "create", "-b", database).status == 0
    run_sql("ALTER TABLE celery_taskmeta DROP COLUMN result_exact")
    assert "schema status" in run_here("history", "-b", database).err
    status = run_here("schema", "status", "-b", database)
    assert status.status == 1
    assert "lacks the column result_exact" in status.out
    assert run_here("schema", "create", "-b", database).status == 1
    checked = run_here("check", database)
    assert (checked.status, "(schema-damaged)" in checked.out) == (1, True)
    found = json.loads(run_here("schema", "status", "-b", database, "--json").out)
    assert found["up_to_date"] is False
    (repair,) = found["repairs"]
    assert repair in status.out.replace("\n", " ")
    assert repair in checked.out
    run_sql(repair)
    assert run_here("schema", "status", "-b", database).status == 0
    assert run_here("history", "-b", database).status == 0


def test_missing_table_is_reported(database: str, run_sql: Callable[[str], None]) -> None:
    run_here("schema", "create", "-b", database)
    run_sql("DROP TABLE celery_taskmeta_chord_part")
    status = run_here("schema", "status", "-b", database)
    assert status.status == 1
    assert "celery_taskmeta_chord_part" in status.out
    assert "is missing" in status.out
    assert "schema sql" in status.out


def test_adopt_without_celerys_tables_is_a_one_line_error(database: str) -> None:
    assert_one_line(run_here("schema", "adopt", "-b", database), "no table of Celery's own", "schema create")


# -- forms of times and values


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "-"),
        (0.0001, "<1 ms"),
        (0.0123, "12 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (125, "2 min 5 s"),
        (15_000, "4 h 10 min"),
        (266_400, "3 d 2 h"),
        (-2, "-2.0 s"),
    ],
)
def test_duration_is_short(seconds: float | None, shown: str) -> None:
    assert show_seconds(seconds) == shown


def test_time_is_as_short_as_is_clear() -> None:
    now = datetime(2026, 3, 5, 12, 30).astimezone()
    assert show_moment(None, now) == "-"
    assert show_moment(now.replace(hour=7), now) == "07:30:00"
    assert show_moment(now.replace(month=1), now) == "01-05 12:30"
    assert show_moment(now.replace(year=2025), now) == "2025-03-05"


def test_time_is_read_in_every_form() -> None:
    assert parse_moment("90m", NOW) == NOW - timedelta(minutes=90)
    assert parse_moment("1.5H", NOW) == NOW - timedelta(minutes=90)
    assert parse_moment("2026-01-31T14:00:00Z") == datetime(2026, 1, 31, 14, tzinfo=timezone.utc)
    assert parse_moment("2026-01-31") == datetime(2026, 1, 31).astimezone()
    assert parse_span("2w") == timedelta(days=14)
    for wrong in ("", "2", "h", "2x", "-2h", "99999999d", "9" * 400 + "d", "0001-01-01", "2026-13-01"):
        with pytest.raises(ValueError, match=r"write|too long"):
            parse_moment(wrong)


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        (Payload(b"{not json"), "<application/json, 9 bytes, unreadable>"),
        (Payload(b"[" * 900 + b"]" * 900), "<application/json, 1800 bytes, nested too deeply>"),
        (Payload(b'"x"', key_id="aes-256-gcm:k1"), "<application/json, encrypted by key k1, 3 bytes>"),
        (
            Payload(b"abc", compression="application/x-gzip"),
            "<application/json, application/x-gzip, 3 bytes, unreadable>",
        ),
        (Payload(b'{"__type__": "datetime", "__value__": "2026-01-31T14:00:00"}'), "2026-01-31T14:00:00"),
        (Payload(b"1606938044258990275541962092341162602522202993782792835301376"), 2**200),
    ],
)
def test_undecodable_value_is_described(stored: Payload, shown: Any) -> None:
    assert json_value(stored) == shown


def test_encrypted_traceback_is_described_and_a_plain_one_is_shown() -> None:
    def of(text: str) -> str:
        return traceback_text(TaskRecord(task_id="x", state="FAILURE", traceback=text))

    key = read_keys(make_key("k1"), "KEYS")
    sealed = Sealer(encryption=key).seal_text("secret", "x", "traceback")
    assert of(sealed) == "<text/plain, encrypted by key k1, 34 bytes>"
    signed = Sealer(signing=key).seal_text("Traceback: open", "x", "traceback")
    assert of(signed) == "Traceback: open"
    assert of("Traceback: open") == "Traceback: open"
    assert of("rootcellar:of an application") == "rootcellar:of an application"


def test_outcome_is_one_line() -> None:
    def of(value: Any) -> str:
        return outcome(TaskRecord(task_id="x", state="S", result=payload(value)))

    assert of(None) == "null"
    assert of("a\nb") == '"a\\nb"'
    assert of({"exc_type": "E", "exc_message": "text"}) == 'E("text")'
    assert of({"exc_type": "E", "exc_message": []}) == "E()"
    assert outcome(TaskRecord(task_id="x", state="S")) == ""


@pytest.mark.parametrize("group", ["hold", "archive", "partitions", "retention", "schema"])
def test_help_of_a_group_cuts_no_sentence(group: str) -> None:
    shown = run_here(group, "--help")
    assert "..." not in shown.out.partition("Commands:")[2], shown.out


def test_examples_in_the_help_quote_a_star() -> None:
    for words in (
        ["hold"],
        ["hold", "add"],
        ["restore"],
        ["forget"],
        ["history"],
        ["archive", "run"],
        ["failures"],
        ["retry"],
    ):
        examples = run_here(*words, "--help").out.partition("Example")[2]
        for line in examples.splitlines():
            assert "*" not in re.sub("'[^']*'", "", line), line
