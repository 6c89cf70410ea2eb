"""A verb: one call of a migrating store, which calls the source and the target in the phase in which it began."""

from __future__ import annotations

import time
from types import TracebackType

from rootcellar.errors import StoreUnavailable
from rootcellar.records import TaskRecord
from rootcellar.stores.dual.phases import Known, Phase, Phases, Running
from rootcellar.stores.dual.sides import Side
from rootcellar.stores.mirroring import fingerprint

#: seconds after which a verb calls no store any more: the others may be more than one phase ahead
DEADLINE_SECONDS = 10.0
#: how often a verb compares the two stores; a later pass finds what still differs
MAX_LOOKS = 4


class Verb:
    """A verb that runs. Use it as a context manager.

    Args:
        source, target: the two stores.
        phases: knows the phase.

    Attributes:
        known: what was known of the phase when it began.
        phase: this phase.
    """

    __slots__ = ("_began", "_phases", "_running", "_source", "_target", "known", "phase")

    def __init__(self, source: Side, target: Side, phases: Phases) -> None:
        self._source = source
        self._target = target
        self._phases = phases
        # before the phase is read: a process may stand still between the two
        self._began = time.monotonic()
        self._running = phases.begin()
        self.known: Known = self._running.known
        self.phase: Phase = self.known.phase

    def __enter__(self) -> Verb:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._running.is_over = True

    @property
    def source(self) -> Side:
        """The source, for the next call."""
        self.check_deadline()
        return self._source

    @property
    def target(self) -> Side:
        """The target, for the next call."""
        self.check_deadline()
        return self._target

    @property
    def decider(self) -> Side:
        """The store that is written first, for the next call."""
        return self.target if self.phase.target_decides else self.source

    @property
    def other(self) -> Side:
        """The other store, for the next call."""
        return self.source if self.phase.target_decides else self.target

    @property
    def is_double(self) -> bool:
        """Whether each result is stored in both stores."""
        return is_double(self.phase)

    @property
    def is_retired(self) -> bool:
        """Whether the source is never called any more."""
        return self.phase is Phase.RETIRED

    def check_deadline(self) -> None:
        """Refuse to call a store if the verb began too long ago: other processes may be in a later phase.

        Raises:
            StoreUnavailable: the caller must begin again, in the phase of that moment.
        """
        if time.monotonic() - self._began > DEADLINE_SECONDS:
            raise StoreUnavailable(
                f"this call took more than {DEADLINE_SECONDS:g} s, and a migration may have gone on meanwhile",
                where=f"{self._source.where} -> {self._target.where}",
                remedy="try again",
            )

    def new_call(self) -> Running:
        """Return what stands for a call to a store that may go on after the verb has ended."""
        return Running(self.known)

    def leave(self, call: Running) -> None:
        """Count such a call as running for as long as it exists, because nobody waits for it any more."""
        self._phases.add(call)


def is_double(phase: Phase) -> bool:
    """Return whether each result is stored in both stores."""
    return Phase.DUAL <= phase <= Phase.TARGET_FIRST


def is_success(record: TaskRecord | None) -> bool:
    """Return whether a record is a SUCCESS, which stays, and so may be the answer of one store alone."""
    return record is not None and record.state == "SUCCESS"


def is_end(record: TaskRecord) -> bool:
    """Return whether a task has ended in this state."""
    return record.done_at is not None


def is_same(one: TaskRecord | None, other: TaskRecord | None) -> bool:
    """Return whether two stores hold the same result."""
    if one is None or other is None:
        return one is other
    return one is other or fingerprint(one) == fingerprint(other)
