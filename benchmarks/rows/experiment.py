"""The rows of the table, and the experiments that fill them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.bed import Place
from benchmarks.contenders import Contender
from benchmarks.sizes import Sizes

#: a figure for each row that the experiment fills, by the row's key
Figures = Mapping[str, float]
Measure = Callable[[Place, Contender, Sizes], Figures]


class WrongResult(Exception):
    """A read result differs from the stored one, so the figures are wrong."""


@dataclass(frozen=True)
class Experiment:
    """A measurement that fills one or more rows.

    Attributes:
        name: for ``--rows``.
        rows: their titles, with the unit, by their keys.
        contenders: the contenders that take part.
        measure: measures one of them once.
        has_worker: whether a worker runs at the same time.
        most_rounds: the maximum number of rounds, because more would take too long.
        rounds_of: the same for a contender, by its column.
    """

    name: str
    rows: Mapping[str, str]
    contenders: Sequence[Contender]
    measure: Measure
    has_worker: bool = False
    most_rounds: int = 100
    rounds_of: Mapping[str, int] = field(default_factory=dict)

    def takes_part(self, contender: Contender, round_number: int) -> bool:
        """Return whether a contender is measured in a round; the first round is 0."""
        return round_number < min(self.most_rounds, self.rounds_of.get(contender.column, self.most_rounds))


def new_id() -> str:
    """Return a task id like Celery's."""
    return str(uuid.uuid4())


def value_of(number: int) -> dict[str, Any]:
    """Return a typical result: about 100 bytes of JSON."""
    return {"order": number, "total": 129.9, "lines": ["apples", "walnuts", "quince"], "is_paid": True, "note": None}


def check(found: Any, expected: Any, what: str) -> None:
    """Check that a contender returned the stored result.

    Raises:
        WrongResult: it returned another one.
    """
    if found != expected:
        raise WrongResult(f"{what}: {found!r:.200} instead of {expected!r:.200}")
