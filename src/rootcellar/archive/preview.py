"""Counts what a run would archive, and reads a few examples."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rootcellar.archive.selecting import Selection
from rootcellar.payloads import Codec
from rootcellar.records import TaskRecord

#: how many tasks a preview counts, how many examples it has, and after how many seconds it stops
CAP, EXAMPLES, SECONDS = 10_000, 5, 10.0


@dataclass(frozen=True, slots=True)
class Preview:
    """What would be archived.

    Attributes:
        count: how many results, up to :data:`CAP`. Some of them may stay, such as those that are held.
        is_all: whether there are no more than ``count``.
        examples: a few of them, with their values, the last ones.
    """

    count: int
    is_all: bool
    examples: tuple[TaskRecord, ...]


def preview(selection: Selection, codec: Codec) -> Preview:
    """Count the wanted results; it stops after some seconds, or at :data:`CAP` results."""
    deadline = time.monotonic() + SECONDS
    count = 0
    examples: list[TaskRecord] = []
    for day in selection.days():
        for page in selection.records(day):
            count += len(page)
            examples += [codec.opened(record)[0] for record in page[: EXAMPLES - len(examples)]]
            if count > CAP or time.monotonic() > deadline:
                return Preview(min(count, CAP), False, tuple(examples))
    return Preview(count, True, tuple(examples))
