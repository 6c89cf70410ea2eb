"""docs/maintenance.md runs as printed, and names every part; beat sends its entries, and a worker runs them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from celery import Celery

import rootcellar
from rootcellar.errors import ConfigurationError
from rootcellar.maintenance.upkeep.parts import Owner, parts_of
from rootcellar.payloads import Codec
from rootcellar.stores import open_store
from rootcellar.stores.jobs import Jobs
from tests.commands import environment
from tests.helpers import now, record, wait_until
from tests.servers import die_with_parent
from tests.test_docs import EXAMPLE_BROKER, EXAMPLE_DATABASE, ROOT, Page, run
from tests.workers import Worker

NAME = "docs/maintenance.md"


def test_page_names_every_part(postgres_url: str, tmp_path: Path) -> None:
    page = (ROOT / NAME).read_text(encoding="utf-8")
    named = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    found: set[str] = set()
    for url in (postgres_url, f"sqlite:///{tmp_path}/results.sqlite3"):
        with closing(open_store(url)) as store:
            found |= {
                part.name for part in parts_of(store, Owner(codec=Codec(), conf={"result_archive": str(tmp_path)}))
            }
    assert set(named) == found


def test_commands_of_the_page_print_what_it_shows(postgres_url: str, tmp_path: Path) -> None:
    with closing(open_store(postgres_url)) as store:
        store.check()
    page = Page(NAME, {EXAMPLE_DATABASE: postgres_url})
    commands = list(page.commands())
    assert len(commands) == 2
    for command, expected in commands:
        lines = zip(expected.splitlines(), run(command, tmp_path).splitlines(), strict=True)
        for wanted, printed in lines:
            assert re.fullmatch(".*".join(map(re.escape, wanted.split("…"))), printed), printed


@contextmanager
def beat(folder: Path) -> Iterator[None]:
    """Run a beat that sends what is due at once."""
    words = [sys.executable, "-m", "celery", "-A", "tasks", "beat", "--max-interval", "1"]
    process = subprocess.Popen(die_with_parent(words), cwd=folder, env=environment(), stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def test_beat_sends_the_entries_and_a_worker_runs_them(postgres_url: str, redis_url: str, tmp_path: Path) -> None:
    page = Page(NAME, {EXAMPLE_DATABASE: postgres_url, EXAMPLE_BROKER: redis_url})
    # the worker itself must not do it
    options = "app.conf.result_backend_transport_options = {'cleanup_interval': 0, 'statistics_interval': 0}\n"
    page.replace('cleanup="1h", maintain="1d")\n', f"cleanup=2, maintain=2)\n{options}")
    page.write_files(tmp_path)
    with closing(open_store(postgres_url)) as store, Worker("tasks", cwd=tmp_path) as worker, beat(tmp_path):
        store.put(record(expires_at=now()))
        worker.wait_for_log("Maintenance, cleanup: ")
        worker.wait_for_log("Maintenance, vacuum: ")
        jobs = store.ability(Jobs)
        assert jobs is not None
        wait_until(lambda: "maintain" in jobs.jobs() and jobs.jobs()["maintain"].succeeded_at is not None, "the task")
        assert jobs.jobs()["cleanup"].succeeded_at is not None
        assert not [each for each in store.scan() if each.expires_at is not None and each.expires_at < now()]


def test_schedule_has_the_times_that_are_given() -> None:
    assert {name: entry["schedule"] for name, entry in rootcellar.beat_schedule(cleanup=None).items()} == {
        "rootcellar.maintain": timedelta(days=1)
    }
    entry = rootcellar.beat_schedule(cleanup="2h", maintain=0)["celery.backend_cleanup"]
    assert (entry["schedule"], entry["options"]["expires"]) == (timedelta(hours=2), 7_200)
    with pytest.raises(ConfigurationError, match="cleanup"):
        rootcellar.beat_schedule(cleanup="soon")


def test_task_is_known_to_apps_that_exist_and_to_later_ones() -> None:
    existing = Celery("existing", set_as_current=False)
    existing.finalize()
    rootcellar.beat_schedule()
    rootcellar.beat_schedule()
    later = Celery("later", set_as_current=False)
    for app in (existing, later):
        assert "rootcellar.maintain" in app.tasks


def test_task_of_an_app_with_another_backend_says_so() -> None:
    app = Celery("other", broker="memory://", backend="cache+memory://", set_as_current=False)
    rootcellar.beat_schedule()
    with pytest.raises(ConfigurationError, match="another result backend"):
        app.tasks["rootcellar.maintain"]()
