"""What the shared value with the phase says: ``{"phase": 1, "epoch": 2, "direction": "forth", …}``.

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
class Told:
    """What was read.

    Attributes:
        known: the phase.
        finished_pass: names the last pass that has ended; ``None`` if none has ended.
    """

    known: Known
    finished_pass: object = None


def told_by(text: str | None, read_at: float, where: str) -> Told:
    """Return what a shared value says; without one, the migration has not begun.

    Args:
        text: the value.
        read_at: the monotonic time when its read began.
        where: the store, for messages.

    Raises:
        MigrationPhaseUnknown: it cannot be understood.
    """
    if text is None:
        return Told(Known(Phase.PREPARED, read_at=read_at))
    try:
        found: Mapping[str, Any] = json.loads(text)
        known = Known(Phase(found["phase"]), found.get("direction") == "back", int(found.get("epoch") or 0), read_at)
        return Told(known, (found.get("work") or {}).get("finished_at"))
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise MigrationPhaseUnknown(
            f"the phase of the migration in {STATE_KEY} cannot be read: {type(exc).__name__}",
            where=where,
            remedy="use the release of rootcellar that began the migration",
        ) from exc
