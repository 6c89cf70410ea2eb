"""What the command line prints of tasks that were only sent, or that are late."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

from rootcellar.records import Payload, TaskRecord
from rootcellar.stores import open_store
from tests.commands import run_here

NOW = datetime.now(timezone.utc)


def test_show_says_that_a_task_was_sent_and_not_started(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/results.sqlite3"
    with closing(open_store(url)) as store:
        sent = TaskRecord(task_id="the-id", state="SENT", result=Payload(b"null"), name="shop.pack", sent_at=NOW)
        store.put(sent)
        store.put(replace(sent, task_id="later", result=Payload(b'{"eta": "2031-05-06T07:08:09+00:00"}')))
        store.put(replace(sent, task_id="own-state", started_at=NOW))
    shown = run_here("show", "the-id", "-b", url).out
    assert shown.startswith("SENT, not started  shop.pack")
    assert "Result" not in shown
    assert "Known before its start" in run_here("show", "later", "-b", url).out
    assert run_here("show", "own-state", "-b", url).out.startswith("SENT  shop.pack")


def test_history_finds_stuck_tasks(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/results.sqlite3"
    with closing(open_store(url)) as store:
        for task_id, ago in (("stuck-one", timedelta(hours=2)), ("young-one", timedelta(minutes=2))):
            store.put(TaskRecord(task_id=task_id, state="SENT", name="shop.pack", sent_at=NOW - ago))
    shown = run_here("history", "is:stuck", "-b", url).out
    assert "stuck" in shown
    assert "young" not in shown
    assert run_here("history", "is:late -is:stuck", "-b", url).out.count("young") == 1
