"""Holds of archived results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rootcellar.errors import ResultHeld
from rootcellar.history.filters import Clock
from rootcellar.history.holds import place_hold
from rootcellar.stores.holding import Holding
from rootcellar.testing.helpers import able
from tests.archive.archives import app_of, archived
from tests.conformance.registered import HYBRID
from tests.helpers import now, record
from tests.history.stores import SQL, opened


@pytest.fixture(params=[*SQL, HYBRID], ids=lambda under_test: under_test.name)
def store(request: pytest.FixtureRequest) -> Iterator[Any]:
    with opened(request.param, request) as found:
        yield found


def test_held_result_in_the_archive_is_not_forgotten(store: Any, tmp_path: Path) -> None:
    kept, free = record(value=1, name="shop.pay"), record(value=2, name="mail.send")
    archived(store, str(tmp_path), [kept, free])
    number = place_hold(store, "task:shop.*", Clock.local(), reason="audit", by="ann").id
    app = app_of(store.url, str(tmp_path))
    with pytest.raises(ResultHeld, match=f"hold {number}: audit"):
        app.AsyncResult(kept.task_id).forget()
    app.AsyncResult(free.task_id).forget()
    reader = app_of(store.url, str(tmp_path))
    assert reader.AsyncResult(kept.task_id).get(timeout=5) == 1
    assert reader.AsyncResult(free.task_id).state == "PENDING"
    # a release counts at once
    able(store, Holding).release_hold(number, "ann", now())
    app.AsyncResult(kept.task_id).forget()
    assert app_of(store.url, str(tmp_path)).AsyncResult(kept.task_id).state == "PENDING"
