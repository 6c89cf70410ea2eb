"""The present of a module of tests, ``NOW``, is that of each of its tests: a test may run long after its import."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from rootcellar.records import TaskRecord

#: a NOW that is older than this is a fixed date, and stays
_RECENT = timedelta(hours=6)
#: the records of a module whose times count from its NOW
_RECORDS = ("RECORDS", "FINISHED")


@pytest.fixture(autouse=True)
def _present(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set ``NOW`` of the test's module, and move the records of the module by as much."""
    then = getattr(request.module, "NOW", None)
    late = datetime.now(timezone.utc) - then if isinstance(then, datetime) else timedelta(days=1)
    if late < _RECENT:
        monkeypatch.setattr(request.module, "NOW", then + late)
        for name in _RECORDS:
            if (records := getattr(request.module, name, None)) is not None:
                monkeypatch.setattr(request.module, name, type(records)(_moved(each, late) for each in records))


def _moved(record: TaskRecord, by: timedelta) -> TaskRecord:
    times: dict[str, Any] = {name: getattr(record, name) for name in ("sent_at", "started_at", "done_at", "expires_at")}
    return replace(record, **{name: moment + by for name, moment in times.items() if moment is not None})
