"""The examples of docs/large-tables.md run as printed."""

from __future__ import annotations

import importlib.util
import re
from datetime import timedelta
from pathlib import Path

from celery import Celery

from rootcellar.maintenance.mover import Mover, MoverConfig
from tests.older.tables import finished, opened, put_all, query
from tests.test_docs import EXAMPLE_DATABASE, Page, run

NAME = "docs/large-tables.md"


def test_page_large_tables_works(postgres_url: str, tmp_path: Path) -> None:
    page = Page(NAME, {EXAMPLE_DATABASE: postgres_url})
    commands = list(page.commands())
    assert [command.split()[1:3] for command, _ in commands] == [
        *(["partitions", "enable"], ["partitions", "status"]),
        *(["schema", "grants"], ["partitions", "disable"]),
    ]
    query(postgres_url, "DROP ROLE IF EXISTS new_worker; CREATE ROLE new_worker")
    try:
        with opened(postgres_url) as (store, older):
            put_all(store, [finished(timedelta(days=5), expires_at=None) for _ in range(3)])
            put_all(store, [finished(timedelta(days=5)) for _ in range(5)])
            for command, expected in commands:
                if "status" in command:
                    # the minute has passed
                    Mover(store, older, MoverConfig(first_move_after=0)).run()
                    for statements in page.of("sql"):
                        query(postgres_url, statements)
                    moved = query(postgres_url, "SELECT count(*) FROM celery_taskmeta_all")
                    assert moved == [(8,)]
                _assert_shown(expected, run(command, tmp_path))
    finally:
        query(postgres_url, "DROP OWNED BY new_worker; DROP ROLE new_worker")


def _assert_shown(expected: str, printed: str) -> None:
    """Compare what a command printed; ``…`` stands for anything."""
    wanted = r"[\s\S]*".join(re.escape(part.strip()) for part in " ".join(expected.split()).split("…"))
    assert re.fullmatch(wanted, " ".join(printed.split())), printed


def test_documented_setting_is_that_of_the_service(postgres_url: str, tmp_path: Path) -> None:
    page = Page(NAME, {})
    page.write_files(tmp_path)
    spec = importlib.util.spec_from_file_location("celeryconfig", tmp_path / "celeryconfig.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def movers(interval: float | None) -> list[Mover]:
        app = Celery("shop", set_as_current=False, backend=f"rootcellar+{postgres_url}")
        app.config_from_object(module)
        if interval is not None:
            app.conf.result_backend_transport_options = {"move_interval": interval}
        return [each for each in app.backend._services.services if isinstance(each, Mover)]

    (mover,) = movers(None)
    assert mover.pause_after(1) == MoverConfig().pause == 60
    assert movers(0) == []
