"""The command `archive run`, killed again and again; in the long form with a million results."""

from __future__ import annotations

import hashlib
import random
import subprocess
from collections.abc import Iterable
from contextlib import closing, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from benchmarks.history import postgres
from benchmarks.history.runs import Period, runs
from rootcellar.archive.files import FileReader
from rootcellar.archive.places import Folder
from rootcellar.records import TaskRecord
from rootcellar.stores import open_store
from tests.commands import command, environment
from tests.conformance.registered import POSTGRES, run_on_postgres
from tests.helpers import HEAVY

ROWS, KILLS = (1_000_000, 10) if HEAVY else (2_000, 2)
#: the most seconds until a run is killed: about a twelfth of what a run takes
LONGEST = 30.0 if HEAVY else 2.0


def digest_of(records: Iterable[TaskRecord]) -> dict[str, bytes]:
    """Return a digest of each record; no task is there twice."""
    found: dict[str, bytes] = {}
    for one in records:
        assert one.task_id not in found
        found[one.task_id] = hashlib.blake2b(repr(one).encode(), digest_size=16).digest()
    return found


def live(store: Any) -> Iterable[TaskRecord]:
    after = None
    while page := store.scan(after, 5_000):
        yield from page
        after = page[-1].task_id


def archived(store: Any, folder: Path) -> Iterable[TaskRecord]:
    for file in store.files():
        with closing(Folder(folder).open(file.path)) as source:
            yield from (row.as_stored for row in FileReader(source, file.path).read() if row.number not in file.void)


@pytest.mark.timeout(3_600 if HEAVY else 300)
def test_command_that_is_killed_loses_and_doubles_nothing(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    source = random.Random()
    arguments = command("archive", "run", "--yes", "state:any", "--to", str(tmp_path))
    with POSTGRES.new_place(request) as url:
        period = Period(rows=ROWS, days=5, end=datetime.now(timezone.utc))
        postgres.write(url, runs(period), postgres.OwnLayout(), lambda count: None)
        store: Any = open_store(url)
        before = digest_of(live(store))
        for _ in range(KILLS):
            process = subprocess.Popen([*arguments, "-b", url], env=environment(), stdout=subprocess.DEVNULL)
            with suppress(subprocess.TimeoutExpired):
                process.wait(source.uniform(0.2, LONGEST))
            process.kill()
            process.wait()
            ((count,),) = run_on_postgres(url, "SELECT count(*) FROM celery_taskmeta")
            ((entries,),) = run_on_postgres(url, "SELECT count(*) FROM celery_taskmeta_archived")
            assert count + entries == len(before) == count + sum(file.valid for file in store.files())
        subprocess.run([*arguments, "-b", url], env=environment(), check=True, stdout=subprocess.DEVNULL)
        after = digest_of(archived(store, tmp_path))
        unfinished = digest_of(live(store))
        assert not after.keys() & unfinished.keys()
        assert after | unfinished == before
        ((finished,),) = run_on_postgres(url, "SELECT count(*) FROM celery_taskmeta WHERE date_done IS NOT NULL")
        assert finished == 0
        store.close()
