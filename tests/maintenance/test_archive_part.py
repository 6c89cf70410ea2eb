"""The part of the archive: it archives by the rules, deletes expired files, and removes what killed runs left."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rootcellar.maintenance.upkeep.archive import EXPIRY_JOB, ArchivePart
from rootcellar.maintenance.upkeep.part import Level
from rootcellar.maintenance.upkeep.parts import Owner, parts_of
from rootcellar.payloads import Codec
from rootcellar.stores import Store, open_store
from rootcellar.stores.archiving import Manifest
from rootcellar.stores.holding import Holding
from rootcellar.stores.jobs import Jobs
from tests.helpers import now, record

ENDED = now() - timedelta(days=3)
FOR_A_YEAR = [{"task": "shop.*", "keep": "1d", "then": "archive", "archive_for": "1y"}]
FOR_A_DAY = [{"task": "shop.*", "keep": "1d", "then": "archive", "archive_for": "1d"}]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(open_store(f"sqlite:///{tmp_path}/results.sqlite3")) as found:
        for _ in range(3):
            found.put(record(name="shop.pay", done_at=ENDED, expires_at=ENDED + timedelta(days=1)))
        yield found


def parts(store: Store, **conf: Any) -> list[ArchivePart]:
    return [part for part in parts_of(store, Owner(codec=Codec(), conf=conf)) if isinstance(part, ArchivePart)]


def part_of(store: Store, folder: Path, rules: object = None) -> ArchivePart:
    (found,) = parts(store, result_archive=str(folder / "archive"), result_retention=rules)
    return found


def files(folder: Path) -> list[Path]:
    return sorted((folder / "archive").rglob("*.parquet"))


def test_store_without_an_archive_has_no_part(store: Store) -> None:
    assert parts(store) == []


def test_results_wait_while_no_archive_is_named(store: Store) -> None:
    (part,) = parts(store, result_retention=FOR_A_YEAR)
    for found in (part.report(), part.apply()):
        assert found.level is Level.ATTENTION
        assert "3 expired results wait to be archived, and no archive is named" in found.text
    assert len(store.scan()) == 3


def test_results_are_archived_by_the_rules(store: Store, tmp_path: Path) -> None:
    part = part_of(store, tmp_path, FOR_A_YEAR)
    assert part.report().facts == {"waiting": 3, "expired_files": 0, "orphans": 0}
    done = part.apply()
    assert (done.level, done.done, done.facts["archived"]) == (Level.OK, 3, 3)
    assert store.scan() == []
    assert len(files(tmp_path)) == 1
    assert part.apply().done == 0


def test_file_of_expired_results_is_deleted(store: Store, tmp_path: Path) -> None:
    part = part_of(store, tmp_path, FOR_A_DAY)
    assert part.apply().facts["archived"] == 3
    # its results had expired before they were archived
    assert files(tmp_path) == []
    jobs = store.ability(Jobs)
    assert jobs is not None
    assert jobs.jobs()[EXPIRY_JOB].done == 1


def test_expired_file_with_a_held_result_stays(store: Store, tmp_path: Path) -> None:
    part = part_of(store, tmp_path, FOR_A_DAY)
    holding = store.ability(Holding)
    assert holding is not None
    part_of(store, tmp_path, FOR_A_YEAR).apply()
    with_files = part_of(store, tmp_path, FOR_A_DAY)
    manifest = store.ability(Manifest)
    assert manifest is not None
    (file,) = manifest.files()
    hold = holding.place_hold("task:shop.pay", "audit", "me", now())
    later = part_of(store, tmp_path)
    assert later.report().facts["expired_files"] == 0
    assert file.expires_at is not None
    expire_all(store)
    assert later.report().facts["expired_files"] == 1
    assert with_files.apply().facts["held_files"] == 1
    assert len(files(tmp_path)) == 1
    holding.release_hold(hold.id, "me", now())
    assert part.apply().facts["expired_files"] == 1
    assert files(tmp_path) == []


def expire_all(store: Store) -> None:
    """Let all files of the archive expire now."""
    run: Any = store
    run._run(lambda connection: connection.execute("UPDATE celery_taskmeta_archive SET expires_at = '2020-01-01'"))


def test_file_of_a_killed_run_is_removed(store: Store, tmp_path: Path) -> None:
    part = part_of(store, tmp_path)
    manifest = store.ability(Manifest)
    assert manifest is not None
    stray = tmp_path / "archive" / manifest.homes()[0] / "day" / "stray.parquet"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"PAR1")
    assert part.report().facts["orphans"] == 0, "the run that wrote it may go on"
    two_days_ago = time.time() - 2 * 86_400
    os.utime(stray, (two_days_ago, two_days_ago))
    found = part.report()
    assert (found.level, found.facts["orphans"]) == (Level.ATTENTION, 1)
    assert "Removed 1 file of killed runs" in part.apply().text
    assert not stray.exists()
    assert part.report().level is Level.OK
