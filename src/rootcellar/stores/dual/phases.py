"""The phases of a migration, and what a process knows of them.

S is the source, T the target. Each process is at most one phase behind the others: the next phase begins only when all
processes have confirmed the last one, and a pass has read everything once::

                     writes                       reads          chords begin in
    PREPARED         S                            S              S
    DUAL             S, then its winner to T      S              S
    SWITCHING        S, then its winner to T      T, then S      S
    TARGET_FIRST     T, then its winner to S      T, then S      T
    TARGET_ONLY      T                            T              T
    RETIRED          T, and S is never called     T              T

A result is forgotten on both sides in every phase but the last.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import Protocol

#: the shared value with the phase: in the target, and a copy of it in the source
STATE_KEY = "migration/state"
#: the shared values of the processes: ``migration/process/<host>/<pid>-<start>``
PROCESS_PREFIX = "migration/process/"
#: the shared values that name results that are not in the other store: ``migration/unmirrored/<task id>``. They are in
#: the store that decides.
UNMIRRORED_PREFIX = "migration/unmirrored/"


class Phase(enum.IntEnum):
    """A phase of a migration."""

    PREPARED = 0
    DUAL = 1
    SWITCHING = 2
    TARGET_FIRST = 3
    TARGET_ONLY = 4
    RETIRED = 5

    @property
    def target_decides(self) -> bool:
        """Whether the target is written first."""
        return self >= Phase.TARGET_FIRST


@dataclass(frozen=True, slots=True)
class Known:
    """What a process knows of the phase.

    Attributes:
        phase: the phase.
        is_back: whether the migration goes back to the source; then chords may have begun in the target.
        epoch: the number of the phase since the beginning of the migration; 0 before it has begun.
        read_at: the monotonic time when its read began.
        migration: the random name of the migration; empty before it has begun.
    """

    phase: Phase
    is_back: bool = False
    epoch: int = 0
    read_at: float = 0.0
    migration: str = ""


class Running:
    """Stands for code that may still call a store in the phase in which it began.

    Attributes:
        known: what was known when it began.
        is_over: whether it calls no store any more.
    """

    __slots__ = ("__weakref__", "is_over", "known")

    def __init__(self, known: Known) -> None:
        self.known = known
        self.is_over = False


class Phases(Protocol):
    """Knows the phase of this process."""

    def now(self) -> Known:
        """Return what is known. It is not older than a few seconds.

        Raises:
            MigrationPhaseUnknown: it is older, and neither store can be asked.
        """

    def known(self) -> Known | None:
        """Return what is known without asking a store; ``None`` if this process has not asked yet."""

    def begin(self) -> Running:
        """Return an object that must exist, without ``is_over``, for as long as something runs in this phase.

        Raises:
            MigrationPhaseUnknown: as for :meth:`now`.
        """

    def add(self, running: Running) -> None:
        """Count something else as running, such as a call that nobody waits for any more."""

    def close(self) -> None:
        """End what runs in the background. The next call begins it again."""


class FixedPhases:
    """Phases that only a test changes.

    Args:
        phase: the first phase.

    Attributes:
        running: everything that has begun.
    """

    def __init__(self, phase: Phase, *, is_back: bool = False) -> None:
        self._known = Known(phase, is_back)
        self.running: list[Running] = []

    def set(self, phase: Phase, *, is_back: bool = False) -> None:
        """Change the phase of what begins from now on."""
        self._known = Known(phase, is_back)

    def now(self) -> Known:
        """See :class:`Phases`."""
        return self._known

    def known(self) -> Known | None:
        """See :class:`Phases`."""
        return self._known

    def begin(self) -> Running:
        """See :class:`Phases`."""
        running = Running(self._known)
        self.add(running)
        return running

    def add(self, running: Running) -> None:
        """See :class:`Phases`."""
        self.running = [*(each for each in self.running if not each.is_over), running]

    def close(self) -> None:
        """See :class:`Phases`."""


def goes_on(state: str) -> bool:
    """Return whether a migration goes on, as the text of its shared value says; also if that cannot be understood.

    The value stays after the end of a migration, for processes that still have the variable.
    """
    try:
        return bool(json.loads(state)["phase"] != Phase.RETIRED)
    except (ValueError, KeyError, TypeError):
        return True
