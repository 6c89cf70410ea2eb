"""What a row of the table is, and the experiment that fills it."""

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
    """What was read is not what was stored: then no figure counts."""


@dataclass(frozen=True)
class Experiment:
    """A measurement that fills one or more rows.

    Attributes:
        name: for ``--rows``.
        rows: their titles, with the unit, by their keys.
        contenders: who takes part.
        measure: measures one of them once.
        has_worker: whether a worker runs meanwhile.
        most_rounds: more than these would take too long.
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
        """Tell whether a contender is measured in a round; the first is 0."""
        return round_number < min(self.most_rounds, self.rounds_of.get(contender.column, self.most_rounds))


def new_id() -> str:
    """Return a task id as Celery makes them."""
    return str(uuid.uuid4())


def value_of(number: int) -> dict[str, Any]:
    """Return a result like many a task's: some 100 bytes of JSON."""
    return {"order": number, "total": 129.9, "lines": ["apples", "walnuts", "quince"], "is_paid": True, "note": None}


def check(found: Any, expected: Any, what: str) -> None:
    """See that a contender gave back what it was given.

    Raises:
        WrongResult: it did not.
    """
    if found != expected:
        raise WrongResult(f"{what}: {found!r:.200} instead of {expected!r:.200}")
