"""The costs of a result besides time: WAL on the server, memory and start-up in a child of a worker."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import sys
import tempfile
import time
from functools import partial

import psutil
import psycopg

from benchmarks import processes
from benchmarks.bed import Place
from benchmarks.contenders import CELERY_DB, CELERY_REDIS, POSTGRES, RAW_DRIVER, REDIS, Contender, Results
from benchmarks.processes import Other
from benchmarks.rows.experiment import Experiment, Figures, check, new_id, value_of
from benchmarks.sizes import Sizes

#: results that are stored before the WAL is measured: the first ones write whole pages
WARM_UP = 200
#: the number of results for the measurement of WAL
MEASURED = 1_000
_MIB = 1 << 20

#: run in a new interpreter: the start of an application before its first result
_START = "from benchmarks.app import make_app; make_app('memory://', {url!r}).backend"


def experiments(sizes: Sizes) -> list[Experiment]:
    return [
        Experiment("wal", {"store_wal": "WAL of a store (bytes)"}, (POSTGRES, CELERY_DB, RAW_DRIVER), _wal),
        Experiment(
            "child",
            {
                "child_memory": "memory that a child of a worker needs for its results (MiB)",
                "child_start": "time from the fork of a child to its first stored result (ms)",
                "app_start": "CPU time of an app's start with this backend, more than with none (ms)",
            },
            (POSTGRES, REDIS, CELERY_REDIS, CELERY_DB),
            _child,
        ),
    ]


def _wal(place: Place, contender: Contender, sizes: Sizes) -> Figures:
    return processes.call(_written, contender, place.url)


def _written(contender: Contender, url: str) -> Figures:
    work = partial(_write, results=contender.open(url), url=url)
    return processes.in_forked_children(1, work)[0]


def _write(parent: Other, results: Results, url: str) -> Figures:
    for number in range(WARM_UP):
        results.store(new_id(), value_of(number))
    parent.tell()
    parent.next_line()
    with psycopg.connect(url, autocommit=True) as connection:
        before = _position(connection)
        for number in range(MEASURED):
            results.store(new_id(), value_of(number))
        return {"store_wal": (_position(connection) - before) / MEASURED}


def _position(connection: psycopg.Connection) -> int:
    """Return how many bytes of WAL the server has written."""
    row = connection.execute("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint").fetchone()
    assert row is not None
    return int(row[0])


def _child(place: Place, contender: Contender, sizes: Sizes) -> Figures:
    found = processes.call(_forked, contender, place.url)
    more = _cpu_of_start(contender.backend_url(place.url)) - _cpu_of_start("disabled://")
    return {**found, "app_start": more * 1e3}


def _forked(contender: Contender, url: str) -> Figures:
    # the parent of a worker has opened its backend, and stored nothing
    work = partial(_first, results=contender.open(url), forked_at=time.monotonic())
    return processes.in_forked_children(1, work)[0]


def _first(parent: Other, results: Results, forked_at: float) -> Figures:
    before = psutil.Process().memory_full_info().uss
    task_id = new_id()
    results.store(task_id, value_of(0))
    ready_at = time.monotonic()
    check(results.read(task_id), value_of(0), "the first result")
    after = psutil.Process().memory_full_info().uss
    parent.tell()
    parent.next_line()
    return {"child_memory": (after - before) / _MIB, "child_start": (ready_at - forked_at) * 1e3}


def _cpu_of_start(url: str) -> float:
    """Return the seconds of CPU, user and system, that a new interpreter needs until the app has its backend.

    The code is compiled before, as pip compiles the packages that it installs.
    """
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": _bytecode_folder()}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    for _ in ("compile", "measure"):
        process = os.posix_spawn(sys.executable, [sys.executable, "-c", _START.format(url=url)], environment)
        _, status, usage = os.wait4(process, 0)
        if status:
            raise RuntimeError(f"an app with the backend {url} did not start: status {status}")
    return usage.ru_utime + usage.ru_stime


@functools.cache
def _bytecode_folder() -> str:
    """Return the folder for compiled code, which is removed when this process ends."""
    folder = tempfile.mkdtemp(prefix="rootcellar-bench-bytecode-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
