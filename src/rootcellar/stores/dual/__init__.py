"""A store that is migrated from a source to a target while results are stored and read.

See ``phases`` for what each phase does, ``store`` for the store itself, and ``following`` for how a process learns of
the phase.
"""

from __future__ import annotations

from rootcellar.stores.dual.phases import FixedPhases, Known, Phase, Phases
from rootcellar.stores.dual.store import DualStore

__all__ = ["DualStore", "FixedPhases", "Known", "Phase", "Phases"]
