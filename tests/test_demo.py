"""The demo, as a user runs it: without servers, and on real servers."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from rich.cells import cell_len

from rootcellar.records import Payload, TaskRecord
from rootcellar.stores import open_store
from tests.commands import Ended, assert_one_line, command, environment, run, run_after, run_on_terminal, run_without
from tests.servers import IN_URL, free_port

ROUND = 13


def suggested(ended: Ended) -> list[list[str]]:
    """Return the commands that a demo suggests at its end, without `rootcellar`."""
    lines = ended.out.partition("Commands to try next:\n")[2].splitlines()
    return [shlex.split(line)[1:] for line in lines if re.match(r"  (\S*/)?rootcellar ", line)]


def assert_commands_work(ended: Ended, env: dict[str, str] | None = None) -> None:
    """Assert that every suggested command works, and that the last one prints JSON."""
    commands = suggested(ended)
    assert [words[0] for words in commands] == ["history", "history", "show", "history"]
    for words in commands:
        tried = run(*words, env=env)
        # what the list leaves out is said on standard error, and is no error
        assert (tried.status, "rootcellar:" in tried.err) == (0, False), tried
        assert "shop." in tried.out
    assert "Invoice" in json.loads(tried.out)[0]["result"]


def assert_summed_up(ended: Ended, rounds: int) -> None:
    """Assert that a demo succeeded, and counted the tasks of every kind."""
    assert (ended.status, ended.err) == (0, ""), ended
    sums = f"{9 * rounds} SUCCESS, {2 * rounds} FAILURE, {rounds} REVOKED, {rounds} whose result is ignored"
    assert re.search(rf"\n{ROUND * rounds} tasks in [\d.]+ s: {sums}\.\n", ended.out)
    assert "All are as expected" in ended.out


@contextmanager
def started(*args: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Start a demo, and kill it at the end of the block if it still runs."""
    line = command("demo", "--once", *args)
    pipe = subprocess.PIPE
    with subprocess.Popen(line, env=environment(env), stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_children(process: subprocess.Popen[str], count: int) -> list[psutil.Process]:
    """Wait until a process has ``count`` descendants, and return them."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        children = psutil.Process(process.pid).children(recursive=True)
        if len(children) >= count:
            return children
        time.sleep(0.05)
    raise AssertionError("the demo did not start its worker")


# -- without servers


def test_demo_needs_nothing_and_its_suggestions_work(tmp_path: Path) -> None:
    # the demo must not use a real app's broker, unless it uses the real app's backend
    elsewhere = {"CELERY_BROKER_URL": "redis://nowhere"}
    # a retry of the missing broker would have no end, and `run` has one
    ended = run("demo", "--once", env={"TMPDIR": str(tmp_path), **elsewhere})
    assert_summed_up(ended, rounds=2)
    for shown in ("STATE", "WAIT", "RUN", 'PaymentDeclined("card expired", 200)', 'ValueError("invalid literal'):
        assert shown in ended.out
    assert "\x1b" not in ended.out
    kept = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert kept == ["demo.sqlite3"]
    assert_commands_work(ended)


def test_demo_shows_its_progress_on_a_terminal(tmp_path: Path) -> None:
    ended = run_on_terminal("demo", "-n", "1", "--file", str(tmp_path / "a.sqlite3"))
    assert ended.status == 0
    assert "shop.build_report" in ended.out
    assert "12/12" in ended.out
    table = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", ended.out).partition("STATE ")[2].partition("tasks in")[0]
    assert max(cell_len(line) for line in table.splitlines()) <= 80


def test_demo_keeps_the_results_of_a_named_file(tmp_path: Path) -> None:
    path = tmp_path / "my results 100%.sqlite3"
    store = open_store(f"sqlite:///{str(path).replace('%', '%25')}")
    store.put(TaskRecord(task_id="before", state="SUCCESS", name="shop.before", result=Payload(b"1")))
    store.close()
    ended = run("demo", "--once", "-n", "13", "--file", str(path))
    assert_summed_up(ended, rounds=1)
    assert "shop.before" not in ended.out
    assert store.get("before") is not None
    store.close()
    assert run(*suggested(ended)[0]).out.count("shop.") == 13


def test_unexpected_result_fails_the_demo(tmp_path: Path) -> None:
    wrong = "import rootcellar.onboarding.demo.tasks as tasks; tasks.write_invoice.run = lambda payment: 'free'"
    ended = run_after(wrong, "demo", "--once", "-n", "26", env={"TMPDIR": str(tmp_path)})
    assert ended.status == 1
    assert "All are as expected" not in ended.out
    *reasons, last = ended.err.splitlines()
    assert re.match(r"shop\.write_invoice \S+: expected SUCCESS 'Invoice 00001: .*', got SUCCESS 'free'$", reasons[0])
    assert last.startswith("rootcellar: 2 of 26 results are not as expected")


# -- against real servers


def test_demo_runs_on_postgresql_and_redis(postgres_url: str, redis_url: str) -> None:
    ended = run(
        "demo", "--once", "-n", "100", "--backend", f"rootcellar+{postgres_url}", "--broker", redis_url, "--keep"
    )
    assert_summed_up(ended, rounds=8)
    assert IN_URL not in ended.out
    with psycopg.connect(postgres_url) as connection:
        query = "SELECT status, count(*) FROM celery_taskmeta GROUP BY status"
        assert dict(connection.execute(query).fetchall()) == {"SUCCESS": 72, "FAILURE": 16, "REVOKED": 8}
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        assert [key for key in client.scan_iter() if "demo" in key] == []
    assert_commands_work(ended, env={"ROOTCELLAR_BACKEND": postgres_url})


def test_demo_runs_on_postgresql_and_rabbitmq(postgres_url: str, rabbit_url: str) -> None:
    ended = run("demo", "--once", "-n", "100", "--backend", postgres_url, "--broker", rabbit_url)
    assert "some tasks fail or are revoked on purpose" in ended.out
    assert "They were deleted from" in ended.out
    with psycopg.connect(postgres_url) as connection:
        for table in ("celery_taskmeta", "celery_groupmeta"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)  # noqa: S608
    assert ":guest@" not in ended.out


def test_demo_runs_on_a_broker_and_a_file(tmp_path: Path, redis_url: str) -> None:
    path = tmp_path / "a.sqlite3"
    assert_summed_up(run("demo", "--once", "-n", "13", "--file", str(path), "--broker", redis_url), rounds=1)


def test_ctrl_c_stops_the_demos_worker(postgres_url: str, redis_url: str, tmp_path: Path) -> None:
    env = {"TMPDIR": str(tmp_path)}
    with started("-n", "2000", "--backend", postgres_url, "--broker", redis_url, env=env) as demo:
        family = wait_for_children(demo, 3)
        lines = [" ".join(process.cmdline()) for process in (psutil.Process(demo.pid), *family)]
        demo.send_signal(signal.SIGINT)
        _, err = demo.communicate(timeout=60)
    assert (demo.returncode, err) == (130, "rootcellar: interrupted\n")
    assert psutil.wait_procs(family, timeout=60)[1] == []
    assert list(tmp_path.iterdir()) == []
    # the user wrote the URL on our own command line; we write it on no other
    assert all(IN_URL not in line and redis_url not in line for line in lines[1:])


def test_dead_worker_is_reported_with_its_log(postgres_url: str, redis_url: str, tmp_path: Path) -> None:
    env = {"TMPDIR": str(tmp_path)}
    with started("-n", "2000", "--backend", postgres_url, "--broker", redis_url, env=env) as demo:
        worker = wait_for_children(demo, 3)[0]
        assert demo.stdout is not None
        while "Sending" not in demo.stdout.readline():
            pass
        worker.kill()
        _, err = demo.communicate(timeout=60)
    assert demo.returncode == 1
    assert err.splitlines()[-1].startswith("rootcellar: the worker ended before its work was done [")
    assert "The end of the worker's log" in err
    assert IN_URL not in err


# -- errors


@pytest.mark.parametrize("backend", ["postgres", "nosuch://host", "db+sqlite:///x"])
def test_backend_that_is_unknown_is_one_line(backend: str, tmp_path: Path) -> None:
    ended = run("demo", "--once", "--backend", backend, env={"TMPDIR": str(tmp_path)})
    assert_one_line(ended, "--backend")
    assert list(tmp_path.iterdir()) == []


def test_unusable_broker_is_a_one_line_error(tmp_path: Path) -> None:
    port = free_port()
    for broker, words in {
        f"redis://:s3cret@127.0.0.1:{port}": ["refused", f"redis://:**@127.0.0.1:{port}"],
        f"amqp://u:s3cret@127.0.0.1:{port}//": ["refused", "check that it runs"],
        "bogus://u:s3cret@host": ["bogus://", "amqp://"],
        "redis://:s3cret/more@host": ["cannot be read", "%XX"],
        "u:s3cret@host": ["not a URL", "--broker"],
    }.items():
        ended = run("demo", "--once", "--file", str(tmp_path / "a.sqlite3"), "--broker", broker)
        assert_one_line(ended, *words, secret="s3cret")


def test_wrong_broker_password_is_a_one_line_error(rabbit_url: str) -> None:
    ended = run("demo", "--once", "--broker", rabbit_url.replace("guest:guest", "guest:s3cret"))
    assert_one_line(ended, "ACCESS_REFUSED", "check user and password", secret="s3cret")


def test_missing_broker_driver_is_a_one_line_error() -> None:
    ended = run_without("redis", "demo", "--once", "--broker", "redis://host")
    assert_one_line(ended, "not installed", "pip install 'celery[redis]'")
