"""The benchmark of storing and waiting during a migration works."""

from __future__ import annotations

import pytest

from benchmarks.migration import storing


@pytest.mark.timeout(300)
def test_benchmark_prints_a_row_for_each_phase_of_both_directions(capsys: pytest.CaptureFixture[str]) -> None:
    # whether the limits are met depends on the machine
    assert storing.main(["--calls", "3"]) in (0, 1)
    printed = capsys.readouterr().out
    assert printed.startswith(storing.SECTION)
    for direction in ("Redis to PostgreSQL", "PostgreSQL to Redis"):
        rows = [line for line in printed.splitlines() if line.startswith(f"| {direction}")]
        assert len(rows) == len(storing.PHASES) + 2
        assert all("of at most 1.3x" in row for row in rows)
