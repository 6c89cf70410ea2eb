"""docs/failures.md runs as printed, and shows the output that it has."""

from __future__ import annotations

from pathlib import Path

from tests.history.pages import play


def test_page_failures_works(tmp_path: Path) -> None:
    play("docs/failures.md", tmp_path)
