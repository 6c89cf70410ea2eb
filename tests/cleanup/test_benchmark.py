"""The benchmark of the cleanup runs, with few rows, and writes its section where it belongs."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from benchmarks.retention import cleanup, sections
from benchmarks.retention.cleanup import clean, delete_at_once, fill, measure


@pytest.mark.parametrize("way", [clean, delete_at_once])
def test_benchmark_measures_a_deletion_beside_stores(way: object, postgres_url: str) -> None:
    fill(postgres_url, 600, datetime.now(timezone.utc))
    found = measure(postgres_url, way, rate=50, quiet=0.2, warm=0.0)
    assert 400 < found.deleted < 600
    assert found.errors == 0
    assert found.quiet.seconds
    assert 20 < found.memory < 500
    assert next(title for title, _ in cleanup.figures([found, found])) == "time (s)"


def test_section_replaces_the_earlier_one_and_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    results = tmp_path / "RESULTS.md"
    results.write_text("# Results\n\n## One\n\n1\n\n## Questions about history\n\nlast\n")
    monkeypatch.setattr(sections, "RESULTS", results)
    sections.write_section("## Two", "## Two\n\n2\n")
    sections.write_section("## One", "## One\n\n1 again\n\n")
    expected = "# Results\n\n## One\n\n1 again\n\n## Two\n\n2\n\n## Questions about history\n\nlast\n"
    assert results.read_text() == expected
