"""A process of an application during a migration: it stores results, reads them again, and prints what it has stored.

``python -m tests.migration.storing NAME SOURCE TARGET``, until its standard input is closed. A line ``stored ID`` means
that the result was acknowledged, and then read. A line that begins with ``wrong`` is a wrong answer.
"""

from __future__ import annotations

import itertools
import json
import select
import sys
from datetime import datetime, timezone

from rootcellar.errors import RootcellarError
from rootcellar.records import Payload, TaskRecord
from rootcellar.stores import Store, StoreOptions, open_store

#: seconds between two results
PAUSE = 0.02


def main(name: str, source: str, target: str) -> None:
    store = open_store(source, StoreOptions(transport_options={"migrate_to": target}))
    for number in itertools.count():
        if select.select([sys.stdin], [], [], PAUSE)[0]:
            break
        _store_and_read(store, f"{name}-{number}", number)
    store.close()


def _store_and_read(store: Store, task_id: str, value: int) -> None:
    record = TaskRecord(
        task_id=task_id,
        state="SUCCESS",
        result=Payload(json.dumps(value).encode()),
        done_at=datetime.now(timezone.utc),
    )
    try:
        store.put(record)
        found = store.get(task_id)
    except RootcellarError as exc:
        # a worker tries again; here, nothing was promised
        print("failed", task_id, exc, flush=True)
        return
    if found is None or found.result != record.result:
        print("wrong", task_id, found, flush=True)
    else:
        print("stored", task_id, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
