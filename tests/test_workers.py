"""The workers of the tests start, answer, lose children and end as the other tests need."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time

import psutil
import pytest
from celery import Celery

from tests.servers import die_with_parent, wait_gone
from tests.workers import ROOT, Pool, Worker, WorkerError

APP = "tests.apps.ping"
TASK = "tests.apps.ping.ping"


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent", "eventlet"])
def test_worker_runs_a_task_over_redis(pool: Pool, redis_url: str) -> None:
    with Worker(APP, env={"TEST_BROKER": redis_url, "TEST_BACKEND": redis_url}, pool=pool, concurrency=2) as worker:
        app = Celery(broker=redis_url, backend=redis_url)
        assert app.send_task(TASK, ["hello"]).get(timeout=20) == "hello"
        assert len(worker.children()) == (2 if pool == "prefork" else 0)
        if pool in ("prefork", "threads"):  # with the other pools, Celery takes 5 s
            assert worker.stop() == 0
            worker.wait_for_log("Warm shutdown", timeout=0)
    assert not worker.running
    assert not worker.folder.exists()


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_worker_runs_a_task_over_rabbitmq(pool: Pool, rabbit_url: str) -> None:
    with Worker(APP, env={"TEST_BROKER": rabbit_url}, pool=pool, args=["-Q", "special"]) as worker:
        sent = Celery(broker=rabbit_url).send_task(TASK, ["hello"], queue="special")
        assert worker.wait_for_log(rf"{TASK}\[{sent.id}\] succeeded in .*: '(\w+)'")[1] == "hello"


def test_kill_child_ends_one_child(redis_url: str) -> None:
    with Worker(APP, env={"TEST_BROKER": redis_url, "TEST_BACKEND": redis_url}, concurrency=2) as worker:
        first, second = worker.children()
        assert worker.kill_child(second) == second
        with pytest.raises(WorkerError, match="no child 1 to kill"):
            worker.kill_child(1)
        worker.wait_for_log(rf"pid:{second} exited with 'signal 9")
        app = Celery(broker=redis_url, backend=redis_url)
        assert app.send_task(TASK).get(timeout=20) == "pong"
        assert first in worker.children()
        assert worker.kill_child() == first


def test_killed_worker_starts_again(redis_url: str) -> None:
    with Worker(APP, env={"TEST_BROKER": redis_url}, concurrency=2) as worker:
        main = psutil.Process(worker.pid)
        everyone = [main, *main.children(recursive=True)]
        assert len(everyone) == 3
        assert worker.kill() == -9
        assert wait_gone(everyone, 0)
        assert not worker.running
        assert worker.children() == []
        worker.start()
        assert len(worker.children()) == 2


def test_stop_kills_a_worker_that_does_not_end(redis_url: str) -> None:
    with Worker(APP, env={"TEST_BROKER": redis_url}) as worker:
        psutil.Process(worker.pid).suspend()
        assert worker.stop(timeout=0.1) == -9


def test_worker_that_cannot_start_is_an_error_with_its_log() -> None:
    worker = Worker("tests.apps.no_such_app")
    with pytest.raises(WorkerError, match=r"(?s)ended without logging .*no_such_app"):
        worker.start()
    assert not worker.running
    shutil.rmtree(worker.folder)


def test_wait_for_log_times_out(redis_url: str) -> None:
    with Worker(APP, env={"TEST_BROKER": redis_url}, pool="solo") as worker:
        started = time.monotonic()
        with pytest.raises(WorkerError, match=r"did not log 'never said' in 0.2 s"):
            worker.wait_for_log("never said", timeout=0.2)
        assert time.monotonic() - started < 20, "not the default timeout"
        with pytest.raises(WorkerError, match="did not log"):
            worker.wait_for_log("ready", timeout=0, since=worker.mark())


def test_workers_end_with_a_killed_test_run(redis_url: str) -> None:
    program = (
        "import time; from tests.workers import Worker;"
        f"worker = Worker({APP!r}, env={{'TEST_BROKER': {redis_url!r}}});"
        "worker.start(); print(worker.pid, *worker.children(), worker.folder, flush=True); time.sleep(60)"
    )
    run = subprocess.Popen(die_with_parent([sys.executable, "-c", program]), cwd=ROOT, stdout=subprocess.PIPE)
    assert run.stdout is not None
    with run.stdout:
        *pids, folder = run.stdout.readline().decode().split()
    assert len(pids) == 2
    processes = [psutil.Process(int(pid)) for pid in pids]
    run.kill()
    run.wait()
    assert wait_gone(processes, 10)
    shutil.rmtree(folder)
