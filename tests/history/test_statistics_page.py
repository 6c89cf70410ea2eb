"""The examples of docs/statistics.md run as printed."""

from __future__ import annotations

import importlib.util
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

from celery import Celery

from rootcellar.maintenance.roll_up import RollUp, RollUpConfig
from rootcellar.records import TaskRecord
from rootcellar.stores import open_store
from tests.test_docs import EXAMPLE_DATABASE, Page, run


def test_page_statistics_works(tmp_path: Path, postgres_url: str) -> None:
    page = Page("docs/statistics.md", {EXAMPLE_DATABASE: postgres_url})
    page.write_files(tmp_path)
    now = datetime.now(timezone.utc)
    with closing(open_store(postgres_url)) as store:
        for number in range(20):
            state, done = ("FAILURE" if number < 12 else "SUCCESS"), now - timedelta(minutes=number)
            started = done - timedelta(seconds=number)
            store.put(
                TaskRecord(
                    task_id=f"task-{number:02}",
                    state=state,
                    name="shop.pay",
                    sent_at=started,
                    started_at=started,
                    done_at=done,
                )
            )
    printed = run("python shop_numbers.py", tmp_path).splitlines()
    assert printed[0] == "12"
    assert any(line.startswith("shop.pay 20 60.0% ") for line in printed)
    assert "['task-19', 'task-18', 'task-17']" in printed
    run("python recount.py", tmp_path)
    assert run("python shop_numbers.py", tmp_path).splitlines()[0] == "12"


def test_documented_settings_are_those_of_the_service(tmp_path: Path, postgres_url: str) -> None:
    page = Page("docs/statistics.md", {EXAMPLE_DATABASE: postgres_url})
    page.write_files(tmp_path)
    spec = importlib.util.spec_from_file_location("celeryconfig", tmp_path / "celeryconfig.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app = Celery("shop", set_as_current=False)
    app.config_from_object(module)
    (service,) = (each for each in app.backend._services.services if isinstance(each, RollUp))
    assert service.pause_after(1) == RollUpConfig().statistics_interval == 5
    assert service.pause_after(0) == 30
