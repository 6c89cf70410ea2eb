"""The shape of all parts of the upkeep: each reports, and acts when it is asked to.

A part is a :class:`~rootcellar.maintenance.service.Service`, so any of them can also run by itself.
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from rootcellar.errors import AbilityMissing, PermissionDenied, RootcellarError
from rootcellar.maintenance.service import Service
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

#: seconds between two runs of a part that runs by itself
INTERVAL = 3_600.0


class Level(str, Enum):
    """The outcome of a part."""

    #: nothing is to be done, or all of it was done
    OK = "ok"
    #: something is to be done, by a person or by ``--apply``
    ATTENTION = "attention"
    #: a right is missing
    REFUSED = "refused"
    #: an error
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a part has found, or has done.

    Attributes:
        part: its name; set by :func:`run_part`.
        level: the outcome.
        text: one sentence.
        advice: what a person can do, a sentence or a statement each.
        done: how much was done, such as rows or tables.
        facts: the same for programs; the values are those of JSON.
        seconds: how long it took; set by :func:`run_part`.
    """

    part: str = ""
    level: Level = Level.OK
    text: str
    advice: tuple[str, ...] = ()
    done: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


class Part(Service):
    """One part of the upkeep. One process does it, because a second one would do the same."""

    is_single = True

    @abstractmethod
    def report(self) -> Report:
        """Return what there is to do; change nothing.

        Raises:
            RootcellarError: it cannot be found out.
        """

    def apply(self) -> Report:
        """Do it, and return what was done. A part that can only look reports.

        Raises:
            RootcellarError: it cannot be done.
        """
        return self.report()

    def run_once(self) -> int:
        return self.apply().done

    def pause_after(self, done: int) -> float:
        return INTERVAL


def run_part(part: Part, *, apply: bool) -> Report:
    """Let a part report or act. Its error becomes a report, so that the other parts go on."""
    began = time.monotonic()
    try:
        found = part.apply() if apply else part.report()
    except (PermissionDenied, AbilityMissing) as exc:
        found = Report(level=Level.REFUSED, text=_sentence(exc), advice=_remedy(exc), facts={"error": exc.code})
    except RootcellarError as exc:
        found = Report(level=Level.FAILED, text=_sentence(exc), advice=_remedy(exc), facts={"error": exc.code})
    except Exception as exc:  # an error of one part must not keep the others from their work
        logger.error("The part %s failed with an unexpected error: %s", part.name, exc, exc_info=True)
        found = Report(level=Level.FAILED, text=f"an unexpected {type(exc).__name__}; see the log")
    return replace(found, part=part.name, seconds=time.monotonic() - began)


def run_parts(
    parts: Iterable[Part], *, apply: bool, may_continue: Callable[[], bool] = lambda: True
) -> Iterator[Report]:
    """Yield the report of each part, in order.

    Args:
        parts: the parts.
        apply: whether they act, or only report.
        may_continue: asked before each part; if it returns ``False``, the others are left out.
    """
    for part in parts:
        if not may_continue():
            return
        yield run_part(part, apply=apply)


def is_good(reports: Iterable[Report]) -> bool:
    """Return whether nothing is left to be done."""
    return all(report.level is Level.OK for report in reports)


def _sentence(exc: RootcellarError) -> str:
    return exc.what


def _remedy(exc: RootcellarError) -> tuple[str, ...]:
    return (exc.remedy,) if exc.remedy else ()
