"""A killed mover loses and doubles no row, and the next run finishes what it left; writers store meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO

import psycopg
import pytest

from rootcellar.stores import Store
from rootcellar.stores.older import Older
from tests.commands import environment
from tests.older.tables import (
    disable,
    enable,
    finished,
    move_all,
    now,
    opened,
    payload,
    put_all,
    query,
    rows_in,
    rows_of_both,
)
from tests.seeds import new_random

WRITERS = 4
ROWS = 120
KILLS = 10
OLD = timedelta(days=5)
#: the most seconds into a step after which its process is killed
LATEST = 0.012


@contextmanager
def process(what: str, url: str, output: IO[str] | int = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    """Run a process of ``tests.older.processes``."""
    args = [sys.executable, "-m", "tests.older.processes", what, url]
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(args, stdout=output, text=True, env=environment(), **pipes) as running:
        try:
            yield running
        finally:
            running.kill()


@pytest.fixture
def both(postgres_url: str) -> Iterator[tuple[Store, Older]]:
    """A store with old results that expire at different times."""
    with opened(postgres_url) as (store, older):
        expiries = (None, now() + timedelta(days=9), now() + timedelta(days=30), now() + timedelta(days=900))
        put_all(store, [finished(OLD, result=payload(n), expires_at=expiries[n % 4]) for n in range(ROWS)])
        yield store, older


def read(running: subprocess.Popen[str]) -> str:
    assert running.stdout is not None
    line = running.stdout.readline()
    assert line, running.stderr.read() if running.stderr else ""
    return line.strip()


def kill_after(mover: subprocess.Popen[str], steps: int, later: float) -> bool:
    """Let a child run, and kill it so many steps and seconds later; return whether it was killed before its end."""
    assert mover.stdin is not None
    mover.stdin.write("go\n")
    mover.stdin.flush()
    child = int(read(mover))
    for _ in range(steps):
        if read(mover) == "ended":
            # the child before it had moved some rows back already
            return False
    time.sleep(later)
    os.kill(child, signal.SIGKILL)
    while read(mover) != "ended":
        pass
    return True


def test_ten_kills_beside_four_writers_lose_and_double_nothing(
    both: tuple[Store, Older], postgres_url: str, tmp_path: Path
) -> None:
    _, older = both
    original = rows_in(postgres_url, "celery_taskmeta")
    # the steps of a run that is not killed: there, back, and a drop of each partition
    steps = 2 * (ROWS // 20) + 8
    with ExitStack() as stack:
        files = [stack.enter_context((tmp_path / f"{number}").open("w")) for number in range(WRITERS)]
        writers = [stack.enter_context(process("write", postgres_url, file)) for file in files]
        for writer in writers:
            assert writer.stderr is not None
            assert writer.stderr.readline() == "writes\n"
        mover = stack.enter_context(process("move", postgres_url))
        kills, choice = 0, new_random("kills of a mover")
        while kills < KILLS:
            kills += kill_after(mover, choice.randrange(1, steps), choice.random() * LATEST)
            found = rows_of_both(postgres_url)
            assert {task_id: row for task_id, row in found.items() if task_id in original} == original
        for writer in writers:
            assert writer.poll() is None, writer.stderr.read() if writer.stderr else ""
            writer.kill()
        mover.kill()
    # the last line may not be whole
    stored = {task_id for file in files for task_id in Path(file.name).read_text().split("\n")[:-1]}
    older.finish_interrupted()
    disable(older)
    found = rows_in(postgres_url, "celery_taskmeta")
    assert {task_id: row for task_id, row in found.items() if task_id in original} == original
    assert stored <= found.keys()
    assert query(postgres_url, "SELECT relname FROM pg_class WHERE relname ~ 'older|moved|_all$'") == []


def test_no_step_needs_a_lock_that_a_store_holds(both: tuple[Store, Older], postgres_url: str) -> None:
    store, older = both
    with psycopg.connect(postgres_url) as writer, psycopg.connect(postgres_url) as reader:
        # the locks of a store, and of somebody who reads for long, until the end of the test
        writer.execute("INSERT INTO celery_taskmeta (task_id, status) VALUES ('a-new-one', 'STARTED')")
        reader.execute("SELECT count(*) FROM celery_taskmeta")
        enable(store, older)
        assert move_all(older) == ROWS
        assert disable(older) == ROWS
