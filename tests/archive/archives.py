"""Archives for tests of reading: files with records, and a store whose manifest lists them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from celery import Celery

from rootcellar.archive.files import FileWriter
from rootcellar.archive.places import Place, open_place
from rootcellar.records import Payload, TaskRecord
from rootcellar.stores import Store
from rootcellar.stores.archiving import Copy, Manifest, NewFile
from rootcellar.testing.helpers import new_id


def manifest_of(store: Store) -> Manifest:
    found = store.ability(Manifest)
    assert found is not None
    return found


def put_file(
    store: Store,
    place: Place,
    records: Sequence[TaskRecord],
    path: str = "",
    *,
    is_stored: bool = False,
    references: Mapping[str, Payload] | None = None,
) -> int:
    """Store records, write them into a file of an archive, and commit it; return the file's number.

    Args:
        store: the store.
        place: where the file is written.
        records: the tasks.
        path: the name of the file.
        is_stored: whether the records are in the store already, as they are here.
        references: by task id, the reference to a blob that the store had in place of the result.
    """
    manifest: Any = manifest_of(store)
    if not is_stored:
        for each in records:
            # into the durable store of a hybrid, whose cache gets no copy
            manifest.put(each)
    found = manifest.get_many([each.task_id for each in records])
    live = [found[each.task_id] for each in records]
    path = path or f"{new_id()}.parquet"
    with place.write(path) as sink:
        writer = FileWriter(sink)
        for each in live:
            writer.add(each, (references or {}).get(each.task_id), expires_at=each.expires_at)
        written = writer.close()
    day = min((each.done_at for each in live if each.done_at is not None), default=datetime.now(timezone.utc)).date()
    file = NewFile(
        location=place.where,
        path=path,
        day=day,
        rows=written.rows,
        bytes=written.bytes,
        sha256=written.sha256,
        first_done=written.first_done,
        last_done=written.last_done,
        expires_at=written.expires_at,
    )
    committed = manifest.commit_file(file, lambda: [Copy(row, each) for row, each in enumerate(live)])
    assert committed.file is not None
    return int(committed.file)


def archived(store: Store, url: str, records: Iterable[TaskRecord]) -> int:
    """Archive records as one file at the place of a URL; return the number of the file."""
    return put_file(store, open_place(url), list(records))


def app_of(url: str, archive: str | None = None, **conf: Any) -> Celery:
    """Return an app whose results are in a store and, if ``archive`` is given, in an archive."""
    app = Celery("archived", broker="memory://", set_as_current=False)
    app.conf.update(result_backend=f"rootcellar+{url}", result_archive=archive, **conf)
    return app


def without_date(record: TaskRecord) -> TaskRecord:
    return replace(record, expires_at=None)
