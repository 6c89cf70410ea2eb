"""What the shared value with the phase says: ``{"phase": 1, "epoch": 2, "direction": "forth", "id": …, …}``.

The coordinator of the migration writes it, with more in it, which only the coordinator reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rootcellar.errors import MigrationPhaseUnknown
from rootcellar.stores.dual.phases import STATE_KEY, Known, Phase


@dataclass(frozen=True, slots=True)
class StoredState:
    """What was read.

    Attributes:
        known: the phase.
        finished_pass: names the last pass that has ended; ``None`` if none has ended.
        verified_at: names the last comparison of both stores; ``None`` if there was none.
        is_of_source, is_of_target: whether this is what the source, or the target, of the migration has.
        target: the URL of the target, without its password; empty if it is not there.
    """

    known: Known
    finished_pass: object = None
    verified_at: object = None
    is_of_source: bool = False
    is_of_target: bool = False
    target: str = ""

    @property
    def has_begun(self) -> bool:
        """Whether there is a migration; it may be over."""
        return self.known.epoch > 0

    @property
    def is_over(self) -> bool:
        """Whether the migration is over: its source is not used any more."""
        return self.known.phase is Phase.RETIRED


def stored_state(text: str | None, read_at: float, where: str) -> StoredState:
    """Return what a shared value says; without one, the migration has not begun.

    Args:
        text: the value.
        read_at: the monotonic time when its read began.
        where: the store, for messages.

    Raises:
        MigrationPhaseUnknown: it cannot be understood.
    """
    if text is None:
        return StoredState(Known(Phase.PREPARED, read_at=read_at))
    try:
        found: Mapping[str, Any] = json.loads(text)
        known = Known(
            Phase(found["phase"]),
            found.get("direction") == "back",
            int(found.get("epoch") or 0),
            read_at,
            str(found.get("id") or ""),
        )
        return StoredState(
            known,
            finished_pass=(found.get("work") or {}).get("finished_at"),
            verified_at=(found.get("verified") or {}).get("at"),
            is_of_source=found.get("store") == "source",
            is_of_target=found.get("store") == "target",
            target=str(found.get("target") or ""),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise MigrationPhaseUnknown(
            f"the phase of the migration in {STATE_KEY} cannot be read: {type(exc).__name__}",
            where=where,
            remedy="use the release of rootcellar that began the migration",
        ) from exc
