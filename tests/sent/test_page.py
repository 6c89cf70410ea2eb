"""docs/sent.md runs as printed."""

from __future__ import annotations

from pathlib import Path

from tests.test_docs import EXAMPLE_BROKER, EXAMPLE_DATABASE, Page, play


def test_page_sent_works(tmp_path: Path, postgres_url: str, redis_url: str) -> None:
    play(Page("docs/sent.md", {EXAMPLE_DATABASE: postgres_url, EXAMPLE_BROKER: redis_url}), tmp_path)
