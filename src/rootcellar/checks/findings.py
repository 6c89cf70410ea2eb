"""What a check finds: a line of the checklist, and for what is wrong a problem that has a name."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(str, Enum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"
    #: not looked at, because an earlier check failed
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that may be wrong: an entry of the register.

    Attributes:
        code: its name, which never changes: ``redis-eviction``.
        level: a failure keeps results from being stored or read, or loses them; a warning will bite one day.
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
        check: what was looked at: ``rights``.
        level: how it ended.
        seen: what was seen, without secrets.
        problem: what is wrong; ``None`` where nothing is.
        remedy: what to change here and now, where that is more than the problem's own remedy.
        seconds: how long it took.
    """

    check: str
    level: Level
    seen: str
    problem: Problem | None = None
    remedy: str = ""
    seconds: float = 0.0

    @property
    def code(self) -> str:
        """The problem's name; empty where nothing is wrong."""
        return self.problem.code if self.problem else ""

    @property
    def advice(self) -> str:
        """What to change; empty where nothing is wrong."""
        return self.remedy or (self.problem.remedy if self.problem else "")
