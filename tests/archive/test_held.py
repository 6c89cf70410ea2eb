"""Holds of archived results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rootcellar.errors import ResultHeld
from rootcellar.history.filters import Clock
from rootcellar.history.holds import place_hold
from rootcellar.stores import open_store
from rootcellar.stores.holding import Holding
from rootcellar.testing.helpers import able
from tests.archive.archives import app_of, archived
from tests.commands import run_here
from tests.conformance.registered import HYBRID
from tests.helpers import now, record
from tests.history.stores import SQL, opened


@pytest.fixture(params=[*SQL, HYBRID], ids=lambda under_test: under_test.name)
def store(request: pytest.FixtureRequest) -> Iterator[Any]:
    with opened(request.param, request) as found:
        yield found


def test_commands_say_what_they_do_with_archived_results(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/results.sqlite3"
    store = open_store(url)
    archived(store, str(tmp_path / "archive"), [record(name="shop.pay"), record(name="shop.pay")])
    store.close()
    placed = run_here("hold", "add", "task:shop.*", "--reason", "audit", "-b", url)
    assert "They are not counted: 2 are archived." in placed.out.replace("\n", " ")
    again = run_here("hold", "add", "task:shop.*", "--reason", "audit", "--json", "-b", url)
    assert json.loads(again.out)["archived"] == 2
    ended = run_here("forget", "--yes", "task:shop.*", "-b", url)
    assert ended.status == 0
    assert "0 tasks forgotten" in ended.out
    assert "2 results are archived" in ended.err.replace("\n", " ")
    assert json.loads(run_here("forget", "--yes", "--json", "task:shop.*", "-b", url).out)["archived"] == 2


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
