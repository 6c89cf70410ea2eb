"""A migration loses and changes nothing, whatever the order of the calls to both stores.

Every interleaving is tried. Each correction of the design is needed: without it, the same test finds a fault.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rootcellar.stores.dual.chords import Chords
from rootcellar.stores.dual.forgetting import Forgetting
from rootcellar.stores.dual.reading import Reading
from rootcellar.stores.dual.verbs import Verb
from rootcellar.stores.dual.writing import Writing
from tests.helpers import HEAVY
from tests.migration.model import chords
from tests.migration.model.explore import BACK, BESIDE, FORTH, Explorer, Scenario
from tests.migration.model.passes import EACH_STEP_BACK, EACH_STEP_FORTH

KILLS_FORTH = {"path": FORTH, "passes": EACH_STEP_FORTH, "kills": 1, "failures": 1}
KILLS_BACK = {"path": BACK, "passes": EACH_STEP_BACK, "kills": 1}
#: not forth and back together: that has no other step
SHORT = [
    (("Sa", "forget"), KILLS_FORTH),
    (("Sa", "Sb"), {"path": FORTH, "passes": EACH_STEP_FORTH, "kills": 1}),
    (("Sa", "Fb"), {"path": (0, 1, 2), "passes": EACH_STEP_FORTH, "failures": 1}),
    (("Sa", "forget"), KILLS_BACK),
]
LONG = [
    *((writers, way) for way in (KILLS_FORTH, KILLS_BACK) for writers in (("Sa", "Sb"), ("Sa", "Fb"), ("Fa", "Fb"))),
    (("Sa", "Sb"), {"path": FORTH, "passes": EACH_STEP_FORTH, "kills": 1, "stalls": True}),
    (("Sa", "forget"), {"path": FORTH, "passes": EACH_STEP_FORTH, "kills": 1, "stalls": True}),
]


def explored(scenario: Scenario, *, stop_at_first: bool = False) -> dict[str, list[str]]:
    explorer = Explorer(scenario)
    explorer.explore(stop_at_first=stop_at_first)
    return {kind: steps for kind, steps in explorer.found.items() if kind != BESIDE}


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("writers", "way"), SHORT + LONG if HEAVY else SHORT)
def test_no_order_of_calls_loses_or_changes_a_result(writers: tuple[str, ...], way: dict[str, Any]) -> None:
    assert explored(Scenario(writers, **way)) == {}


@pytest.mark.parametrize(
    ("writers", "path"), [(("Fa", "Fb"), (0, 1, 2)), (("Sa", "Fb"), (0, 1, 2, 3)), (("Sa", "Sb"), (0, 1, 2, 3))]
)
def test_both_stores_are_alike_at_the_end(writers: tuple[str, ...], path: tuple[int, ...]) -> None:
    assert explored(Scenario(writers, path=path, passes=EACH_STEP_FORTH, reads=0)) == {}


# -- without one of the corrections


def pushed_answer(self: Reading) -> bool:
    return False


def every_end_is_a_hit(self: Reading, in_target: Any) -> bool:
    return in_target is not None


def forced_back(self: Writing, verb: Verb, winner: Any) -> bool:
    verb.source.settle(winner)
    return False


def no_second_look(self: Writing, verb: Verb, winner: Any, *rest: Any) -> Any:
    # as if nothing had changed: what was mirrored is what the deciding store holds
    return rest[0] if rest else winner


def nothing_known(self: Forgetting, verb: Verb, task_ids: Any) -> Any:
    verb.target.get_many(task_ids)
    return {}


def deleted_in_source(self: Forgetting, verb: Verb, task_ids: Any, known: Any) -> Any:
    found = verb.source.get_many(task_ids)
    verb.source.store.delete(task_ids)
    return found


def deleted_in_target(self: Forgetting, verb: Verb, task_ids: Any, known: Any) -> Any:
    found = verb.target.get_many(task_ids)
    verb.target.store.delete(task_ids)
    return found


def no_deadline(self: Verb) -> None:
    return None


FORTH_ALONE = {"path": FORTH, "passes": EACH_STEP_FORTH}


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("owner", "name", "without", "scenario"),
    [
        pytest.param(Reading, "asks_target_after_push", pushed_answer, Scenario(("Sa", "Sb"), **FORTH_ALONE), id="C1"),
        pytest.param(Reading, "is_hit", every_end_is_a_hit, Scenario(("Sa", "Fb"), **FORTH_ALONE), id="C2"),
        pytest.param(
            Writing,
            "send_back",
            forced_back,
            Scenario(("Sa", "Fb"), path=(0, 1, 2, 3), passes=EACH_STEP_FORTH, reads=0),
            id="C3",
        ),
        pytest.param(
            Writing,
            "look_again_in_source",
            no_second_look,
            Scenario(("Fa", "Fb"), path=(0, 1, 2), passes=EACH_STEP_FORTH, reads=0),
            id="C5",
        ),
        pytest.param(Forgetting, "read_target", nothing_known, Scenario(("Sa", "forget"), **KILLS_BACK), id="C6 names"),
        pytest.param(
            Forgetting, "bury_in_source", deleted_in_source, Scenario(("Sa", "forget"), **KILLS_BACK), id="C6 source"
        ),
        pytest.param(
            Forgetting, "bury_in_target", deleted_in_target, Scenario(("Sa", "forget"), **KILLS_FORTH), id="C6 target"
        ),
        pytest.param(
            Verb, "check_deadline", no_deadline, Scenario(("Sa", "Sb"), **FORTH_ALONE, stalls=True, reads=0), id="C7"
        ),
    ],
)
def test_each_correction_is_needed(
    owner: type, name: str, without: Callable[..., Any], scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, without)
    assert explored(scenario, stop_at_first=True) != {}


@pytest.mark.parametrize("passes", [{}, {(1, 2): "EQUAL in DUAL"}], ids=["no pass", "only before the readers switch"])
def test_pass_before_each_step_is_needed(passes: dict[tuple[int, int], str]) -> None:
    """C4: what a killed writer left in one store must be in the other one before the stores exchange their roles."""
    scenario = Scenario(("Sa", "Sb"), path=FORTH, passes=passes, kills=1)
    assert explored(scenario, stop_at_first=True) != {}


# -- chords


PATHS = [(1, 2, 3), (3, 2, 1)]
LONG_PATHS = [(0, 1, 2), (2, 3, 4), (2, 1, 0), FORTH, BACK]


@pytest.mark.parametrize("path", [*PATHS, *LONG_PATHS] if HEAVY else PATHS)
def test_chord_ends_once_in_whatever_phase_it_begins_and_ends(path: tuple[int, ...]) -> None:
    found, _ = chords.explore(path)
    assert found == {}


def by_phase(self: Chords, verb: Verb, group_id: str) -> Any:
    return verb.decider


@pytest.mark.parametrize("path", [(1, 2, 3), (3, 2, 1)])
def test_part_must_be_counted_where_the_chord_began(path: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Chords, "home", by_phase)
    found, _ = chords.explore(path)
    assert "hangs" in found


def result_first(self: Chords, verb: Verb, put: Any, part: Any) -> Any:
    home = self.home(verb, part.group_id)
    stored = self._writing.put(verb, replace(put, part=None))
    return replace(stored, chord=home.store.count_part(replace(part, result=put.record.result)))


@pytest.mark.parametrize("path", [(1, 2, 3), (3, 2, 1)])
def test_part_must_be_counted_before_its_result_is_stored(
    path: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Chords, "put", result_first)
    found, _ = chords.explore(path)
    assert "hangs" in found
