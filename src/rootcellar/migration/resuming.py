"""Keeps how far a copy is in the shared values of its target, so that it goes on after its process was killed."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from typing import Any

from rootcellar.errors import RootcellarError
from rootcellar.stores.shared_values import SharesValues

#: the beginning of the keys
KEYS = "copy/"
#: the seconds after which the progress is stored again
INTERVAL = 1.0


class CopyTaken(RootcellarError):
    """Another process runs the same copy. Not retryable."""


@dataclass(slots=True)
class Counts:
    """What a copy has done.

    Attributes:
        read: the task records that were read.
        left_out: those that the filter does not find.
        expired: those that have expired already.
        unreadable: those with a field that cannot be read; they are not copied.
        written: those that were written.
        kept: those whose task has the same, a newer or another final record in the target.
        buried: those that were forgotten in the target.
        refused: those that the target cannot store, such as one that is too large.
        groups, groups_written, groups_unreadable: the saved groups that were read, those that were written, and those
            that cannot be read; the last ones are not copied.
    """

    read: int = 0
    left_out: int = 0
    expired: int = 0
    unreadable: int = 0
    written: int = 0
    kept: int = 0
    buried: int = 0
    refused: int = 0
    groups: int = 0
    groups_written: int = 0
    groups_unreadable: int = 0

    def add(self, other: Counts) -> None:
        """Add what was done besides."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass(slots=True)
class CopyState:
    """How far a copy is.

    Attributes:
        stage: ``tasks``, or then ``groups``.
        cursor: where the walk of this stage goes on; ``None`` for its beginning.
        filter: the filter, with absolute moments.
        counts: what was done.
        started_at: when the copy began.
        problems: the first few problems, each in a sentence.
    """

    stage: str = "tasks"
    cursor: str | None = None
    filter: str = ""
    counts: Counts = field(default_factory=Counts)
    started_at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    problems: list[str] = field(default_factory=list)

    def to_text(self) -> str:
        """Return it as JSON."""
        return json.dumps({**asdict(self), "started_at": self.started_at.isoformat()})

    @classmethod
    def from_text(cls, text: str) -> CopyState:
        """Return what :meth:`to_text` returned.

        Raises:
            ValueError, TypeError, KeyError: it is something else.
        """
        found: dict[str, Any] = json.loads(text)
        known = {each.name for each in fields(Counts)}
        counts = Counts(**{name: int(number) for name, number in found["counts"].items() if name in known})
        return cls(
            stage=str(found["stage"]),
            cursor=found["cursor"],
            filter=str(found["filter"]),
            counts=counts,
            started_at=datetime.fromisoformat(found["started_at"]),
            problems=[str(each) for each in found["problems"]],
        )


def key_of(*identity: str | bool) -> str:
    """Return the key of a copy.

    Args:
        identity: what makes it this copy: the names of source and target, the filter, and its options.
    """
    return KEYS + hashlib.blake2b(json.dumps(identity).encode(), digest_size=12).hexdigest()


class StateKeeper:
    """Stores the state of one copy from time to time.

    Args:
        values: the shared values of the target.
        key: the key of the copy.
        target: the target, for messages.
    """

    def __init__(self, values: SharesValues, key: str, target: str) -> None:
        self._values = values
        self._key = key
        self._target = target
        self._version: int | None = 0
        self._next = time.monotonic() + INTERVAL

    def load(self) -> CopyState | None:
        """Return where an earlier run of the same copy ended; ``None`` if there was none, or it reached its end."""
        found = self._values.shared(self._key).get(self._key)
        self._version = 0 if found is None else found.version
        if found is None:
            return None
        try:
            return CopyState.from_text(found.value)
        except (ValueError, TypeError, KeyError):
            # of a later release, perhaps: the copy begins again
            return None

    def note(self, state: CopyState) -> None:
        """Store the state, if it was not stored within the last second.

        Raises:
            CopyTaken: another process runs the same copy.
        """
        if time.monotonic() >= self._next:
            self.store(state)

    def store(self, state: CopyState) -> None:
        """Store the state.

        Raises:
            CopyTaken: another process runs the same copy.
        """
        text = state.to_text()
        version = self._values.share(self._key, text, if_version=self._version)
        if version is None:
            now = self._values.shared(self._key).get(self._key)
            # the answer of an earlier try may have been lost
            if now is None or now.value != text:
                raise CopyTaken(
                    "another process runs the same copy",
                    where=self._target,
                    remedy="let it go on, or end it and run this command again",
                )
            version = now.version
        self._version = version
        self._next = time.monotonic() + INTERVAL

    def forget(self) -> None:
        """Delete the state: the copy has reached its end."""
        self._values.unshare([self._key])
