"""All rows of the table, in its order."""

from __future__ import annotations

from benchmarks.rows import joining, listening, many, reading, spending, storing, waiting, weighing, working
from benchmarks.rows.experiment import Experiment
from benchmarks.sizes import Sizes


def all_experiments(sizes: Sizes) -> list[Experiment]:
    """Return the experiments of a run of these sizes."""
    return [
        experiment
        for module in (storing, reading, spending, weighing, waiting, joining, working, many, listening)
        for experiment in module.experiments(sizes)
    ]
