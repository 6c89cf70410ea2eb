"""The benchmark of copying and verifying works, in its quick form."""

from __future__ import annotations

import pytest

from benchmarks.migration import copying


@pytest.mark.timeout(300)
def test_quick_benchmark_prints_each_figure_with_its_goal(capsys: pytest.CaptureFixture[str]) -> None:
    assert copying.main(["--quick"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(copying.SECTION)
    assert "2,000 results in Redis" in printed
    assert printed.count("missed |") + printed.count("met |") == 4
    for name in ("COPY alone", "the loop", "`rootcellar copy`", "`rootcellar verify`"):
        assert f"| {name}" in printed
