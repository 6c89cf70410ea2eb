"""The benchmark of holds runs, with few results."""

from __future__ import annotations

from benchmarks.retention.holds import CASES, measure


def test_benchmark_of_holds_measures_every_case(postgres_url: str) -> None:
    found = dict(measure(postgres_url, 300, 1))
    assert list(found) == list(CASES)
    assert all("results/s" in figure for figure in found.values())
