"""The benchmark of counting runs, with a small history."""

from __future__ import annotations

from benchmarks.history.counting import QUESTIONS, measure


def test_benchmark_of_counting_measures_every_question(postgres_url: str) -> None:
    found = dict(measure(postgres_url, 300))
    assert set(QUESTIONS) < set(found)
    assert all(figure.split()[0] for figure in found.values())
