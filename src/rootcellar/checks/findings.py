"""What a check finds: a line of the checklist. If something is wrong, the line has a problem with a name."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(str, Enum):
    """The outcome of a check."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"
    #: not checked, because an earlier step failed
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that can be wrong: an entry of the register.

    Attributes:
        code: its name, which never changes: ``redis-eviction``.
        level: a failure means that results cannot be stored or read, or get lost; a warning means that this can happen
            later.
        title: what is wrong, in a few words.
        why: why it matters.
        remedy: what to change.
    """

    code: str
    level: Level
    title: str
    why: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the checklist.

    Attributes:
        check: the name of the step, such as ``rights``.
        level: the outcome.
        seen: what the check saw, without secrets.
        problem: what is wrong; ``None`` if nothing is wrong.
        remedy: what to change in this case, if that is more precise than the problem's own remedy.
        seconds: how long the check took.
    """

    check: str
    level: Level
    seen: str
    problem: Problem | None = None
    remedy: str = ""
    seconds: float = 0.0

    @property
    def code(self) -> str:
        """The problem's name; empty if nothing is wrong."""
        return self.problem.code if self.problem else ""

    @property
    def advice(self) -> str:
        """What to change; empty if nothing is wrong."""
        return self.remedy or (self.problem.remedy if self.problem else "")
