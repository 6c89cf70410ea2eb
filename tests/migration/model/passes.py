"""The passes of the model: those of ``rootcellar.migration``, for its one task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from rootcellar.migration.agreeing import agreeing, are_same
from rootcellar.migration.pair import Pair, Side
from rootcellar.migration.passes import STAGES, Pass
from rootcellar.migration.state import PassKind, PassState
from rootcellar.migration.throttle import Throttle
from rootcellar.stores.dual.phases import Phase
from tests.migration.model.records import NOW, TASK_ID
from tests.migration.model.script import ScriptedStore


@contextmanager
def read_at_once(make: Callable[[Callable[[float], bool]], Iterator[Any]]) -> Iterator[Iterator[Any]]:
    """Stands for ``read_ahead``: a thread of its own would not be scheduled."""
    yield make(lambda seconds: False)


def _side(name: str, store: Any) -> Side:
    return Side(name=name, store=store, url=name, mirrored=store, streamed=store, values=store, lookup=store)


def _run(kind: PassKind, phase: Phase, source: ScriptedStore, target: ScriptedStore) -> None:
    """Make a pass, then compare both stores, and let them agree on a task that differs."""
    pair = Pair(source=_side("source", source), target=_side("target", target))
    work = PassState(kind=kind, epoch=1, stage=STAGES[kind][0], total=1, started_at=NOW)
    Pass(pair, phase, work, throttle=Throttle()).run()
    if not are_same(source.get(TASK_ID), target.get(TASK_ID)):
        agreeing(pair, phase)(TASK_ID)


#: the passes by their names: the kind, and the phase in which it is made
PASSES: dict[str, Callable[[ScriptedStore, ScriptedStore], Any]] = {
    f"{kind.name} in {phase.name}": partial(_run, kind, phase)
    for kind, phase in (
        (PassKind.EQUAL, Phase.DUAL),
        (PassKind.FORTH, Phase.SWITCHING),
        (PassKind.FORTH, Phase.TARGET_FIRST),
        (PassKind.BACK, Phase.SWITCHING),
    )
}

#: the passes before each step, forth and back
EACH_STEP_FORTH = {(1, 2): "EQUAL in DUAL", (2, 3): "FORTH in SWITCHING", (3, 4): "FORTH in TARGET_FIRST"}
EACH_STEP_BACK = {(1, 2): "EQUAL in DUAL", (2, 3): "FORTH in SWITCHING", (2, 1): "BACK in SWITCHING"}
