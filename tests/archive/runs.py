"""Runs of the archive for tests, and the account of what is where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from rootcellar.archive.files import FileReader
from rootcellar.archive.places import Folder, Place
from rootcellar.archive.selecting import Selection, wanted_by_filter, wanted_by_rule
from rootcellar.archive.writing import Archiving, Progress
from rootcellar.history.filters import Clock, parse
from rootcellar.history.holds import Holds
from rootcellar.payloads import Codec, codec_of
from rootcellar.records import TaskRecord
from rootcellar.retention.policy import Retention
from rootcellar.stores import Store
from rootcellar.stores.archiving import Manifest
from tests.helpers import record

#: a time of day that is not close to midnight, so that a task and the next ones are of one day
NOON = datetime.now(timezone.utc).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=2)


def clock() -> Clock:
    return Clock(datetime.now(timezone.utc), timezone.utc)


def archiving(
    store: Store,
    folder: Path | Place,
    query: str = "state:any",
    *,
    codec: Codec | None = None,
    retention: Retention | None = None,
    **given: Any,
) -> Archiving:
    """Return a run by a filter, or by the rules of a retention."""
    codec = codec or codec_of({})
    if retention is None:
        wanted = wanted_by_filter(store, codec, parse(query), clock())
    else:
        condition = retention.archiving()
        assert condition is not None
        wanted = wanted_by_rule(condition, datetime.now(timezone.utc))
        given["expiry"] = retention.archive_expiry
    return Archiving(
        store,
        folder if isinstance(folder, Place) else Folder(folder),
        Selection(store, wanted),
        holds=Holds(store, codec),
        spiller=codec.spiller,
        **given,
    )


def archive(store: Store, folder: Path | Place, query: str = "state:any", **given: Any) -> Progress:
    return archiving(store, folder, query, **given).run()


def durable(store: Store) -> Any:
    """Return the store with the tables: of a hybrid, the durable one."""
    found = store.ability(Manifest)
    assert found is not None
    return found


def live(store: Store) -> dict[str, TaskRecord]:
    """Return all live rows."""
    found: dict[str, TaskRecord] = {}
    after = None
    while page := durable(store).scan(after, 1_000):
        found.update({one.task_id: one for one in page})
        after = page[-1].task_id
    return found


def archived(store: Store, folder: Path) -> dict[str, TaskRecord]:
    """Return all archived records that count, as the store had them; none twice, and each in the index."""
    manifest, place = durable(store), Folder(folder)
    found: dict[str, TaskRecord] = {}
    for file in manifest.files():
        with closing(place.open(file.path)) as source:
            for row in FileReader(source, file.path).read():
                places = manifest.places([row.record.task_id]).get(row.record.task_id, ())
                is_listed = any((each.file, each.row) == (file.id, row.number) for each in places)
                assert is_listed == (row.number not in file.void), (file, row.number)
                if is_listed:
                    assert row.record.task_id not in found, "archived twice"
                    found[row.record.task_id] = row.as_stored
    return found


def everything(store: Store, folder: Path) -> dict[str, TaskRecord]:
    """Return live and archived records; no task is both."""
    here, there = live(store), archived(store, folder)
    assert not here.keys() & there.keys(), "both live and archived"
    return here | there


def fill(store: Store, count: int, make: Callable[..., TaskRecord] = record, days: int = 3) -> list[TaskRecord]:
    """Store records of tasks that ended on several days."""
    records = [
        make(
            value={"number": number},
            state=("SUCCESS", "FAILURE", "SUCCESS")[number % 3],
            name=f"shop.task{number % 4}",
            done_at=NOON - timedelta(days=number % days, seconds=number),
            expires_at=NOON + timedelta(days=number % 5),
        )
        for number in range(count)
    ]
    for one in records:
        durable(store).put(one)
    return records


def paths(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def parquet(folder: Path) -> Sequence[Path]:
    return sorted(folder.rglob("*.parquet"))
