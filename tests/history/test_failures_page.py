"""docs/failures.md runs as printed, and shows the output that it has."""

from __future__ import annotations

from pathlib import Path

from celery import Celery

from rootcellar.history.grouping.settings import libraries_of
from tests.history.pages import play


def test_page_failures_works(tmp_path: Path) -> None:
    play("docs/failures.md", tmp_path)
    with Celery(set_as_current=False) as app:
        app.config_from_object({"result_backend": "rootcellar+sqlite:///x.sqlite3"})
        settings: dict[str, object] = {}
        exec((tmp_path / "celeryconfig.py").read_text(), settings)  # noqa: S102 - our own page
        app.conf.update({name: value for name, value in settings.items() if not name.startswith("__")})
        assert libraries_of(app.conf) == ("shop.http", "acme")
