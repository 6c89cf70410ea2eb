"""docs/copy.md runs as printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.history.pages import play


@pytest.mark.timeout(300)  # it starts about ten processes, one after the other
def test_page_copy_works(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    play("docs/copy.md", tmp_path)
    assert (tmp_path / "results.d" / "results-000001.parquet").exists()
