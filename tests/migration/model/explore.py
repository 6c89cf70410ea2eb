"""Tries every interleaving of a migration of one task: two writers, a reader, the passes and the phases.

The writers and the reader run the code of :class:`~rootcellar.stores.dual.store.DualStore`, the passes are those of
``passes.py``, and both stores are in memory. The search is breadth first, so an example of a fault is a shortest one.

What is checked:

* ``sticky``: a read that begins after another read has returned a SUCCESS returns the same SUCCESS;
* ``stored``: a read that begins after a put has returned finds a result, and a SUCCESS if the put was one;
* ``end``: at the end, the store that is left holds the SUCCESS that was read or stored;
* ``forgotten``: a read that begins after a forget has returned, with no put since, finds nothing;
* :data:`BESIDE`: the same while the put still mirrors; this may be seen for a moment;
* ``alike``: at the end, both stores hold the same, if no process was killed and no store failed. If one writer stores
  in the source first and another in the target first, they may leave two different FAILUREs, which the next pass makes
  the same. So this is not checked in the phase TARGET_FIRST if no writer succeeds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from rootcellar.records import TaskRecord
from rootcellar.stores.dual.phases import FixedPhases, Phase
from rootcellar.stores.dual.store import DualStore
from tests.migration.model.passes import PASSES
from tests.migration.model.records import TASK_ID, letter_of, result
from tests.migration.model.script import FAILS, SOURCE, STALLS, TARGET, Outcome, ScriptedStore, Stores, run

#: seen only for the moment in which the put still runs, by design
BESIDE = "forgotten beside a put"
FORTH = (0, 1, 2, 3, 4)
BACK = (0, 1, 2, 3, 2, 1, 0)


@dataclass(frozen=True)
class Scenario:
    """What happens.

    Attributes:
        writers: what each writer does: ``"Sa"`` stores the SUCCESS a, ``"Fb"`` the FAILURE b, ``"forget"`` forgets.
        path: the phases.
        passes: the passes that are made before the step from one phase to another.
        kills: how many writers are killed between two of their calls.
        failures: how many calls to the target fail in the phase DUAL.
        stalls: whether a process may stand still in the middle of a verb while the phases go on.
        reads: how often the reader reads.
    """

    writers: tuple[str, ...]
    path: tuple[int, ...]
    passes: Mapping[tuple[int, int], str]
    kills: int = 0
    failures: int = 0
    stalls: bool = False
    reads: int = 2


class History(NamedTuple):
    """What readers must see from now on: a SUCCESS that was read, the best state that was stored, nothing."""

    seen: str | None = None
    stored: str | None = None
    is_forgotten: bool = False


class Process(NamedTuple):
    """A writer or the reader: its phase, the answers to the calls of its verb, and how many verbs it has ended.

    A process is gone if the phases go on without it, because it has stood still for longer than a verb may take.
    """

    status: str = "idle"
    place: int = 0
    answers: tuple[int, ...] = ()
    ended: int = 0


class State(NamedTuple):
    source: int
    target: int
    processes: tuple[Process, ...]
    #: the place in the path, and the answers to the calls of the pass that runs; None: none has begun; "done"
    place: int
    answers: tuple[int, ...] | str | None
    history: History
    #: what the read that runs must see
    expected: History | None
    kills: int
    failures: int


class Explorer:
    """Explores one scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self._stores = Stores()
        self._fails = self._stores.answers.number(FAILS)
        self._stalls = self._stores.answers.number(STALLS)
        self._outcomes: dict[tuple[Any, ...], Outcome] = {}
        self.found: dict[str, list[str]] = {}
        self._seen: dict[State, tuple[State, str] | None] = {}

    def explore(self, *, stop_at_first: bool = False, limit: int = 10_000_000) -> int:
        """Try every interleaving; return how many states there are. What was found is in ``found``."""
        count = len(self.scenario.writers) + 1
        start = State(
            source=self._stores.empty,
            target=self._stores.empty,
            processes=(*(Process(),) * (count - 1), Process() if self.scenario.reads else Process("ended")),
            place=0,
            answers=None,
            history=History(),
            expected=None,
            kills=self.scenario.kills,
            failures=self.scenario.failures,
        )
        self._seen = {start: None}
        waiting = deque([start])
        while waiting and not (stop_at_first and self.found.keys() - {BESIDE}):
            assert len(self._seen) < limit, "the scenario has too many states"
            state = waiting.popleft()
            for following, label in self._following(state):
                if following not in self._seen:
                    self._seen[following] = (state, label)
                    waiting.append(following)
        return len(self._seen)

    # -- what can happen next

    def _following(self, state: State) -> list[tuple[State, str]]:
        found: list[tuple[State, str]] = []
        for number, process in enumerate(state.processes):
            if process.status == "idle":
                found += self._begin(state, number, process)
            elif process.status in ("runs", "gone"):
                found += self._go_on(state, number, process)
        found += self._coordinate(state)
        if not found or self._is_over(state):
            self._check_end(state)
        return found

    def _verb(self, number: int) -> str:
        return self.scenario.writers[number] if number < len(self.scenario.writers) else "get"

    def _name(self, number: int) -> str:
        return f"writer {number + 1}" if number < len(self.scenario.writers) else "reader"

    def _begin(self, state: State, number: int, process: Process) -> list[tuple[State, str]]:
        found = []
        name = self._name(number)
        if process.place != state.place:
            learnt = process._replace(place=state.place)
            found.append((_with(state, number, learnt), f"{name} learns of {self._phase(state.place)}"))
        verb = self._verb(number)
        if verb == "forget" and not self._may_be_forgotten(state):
            return found
        runs = process._replace(status="runs", answers=())
        begun = _with(state, number, runs)
        if verb == "forget":
            # what was promised before no longer holds
            expected = None if state.expected is None else History()
            begun = begun._replace(history=History(), expected=expected)
        elif verb == "get":
            begun = begun._replace(expected=state.history)
        else:
            expected = None if state.expected is None else state.expected._replace(is_forgotten=False)
            begun = begun._replace(history=state.history._replace(is_forgotten=False), expected=expected)
        found.append((begun, f"{name} begins {verb} in {self._phase(process.place)}"))
        return found

    def _may_be_forgotten(self, state: State) -> bool:
        """A result is forgotten by somebody who has read it, or who knows that its tasks have ended."""
        putting = [
            process
            for number, process in enumerate(state.processes[:-1])
            if self._verb(number) != "forget" and process.status not in ("ended", "killed")
        ]
        return not putting or state.history.seen is not None

    def _go_on(self, state: State, number: int, process: Process) -> list[tuple[State, str]]:
        name, verb = self._name(number), self._verb(number)
        answers = process.answers
        if process.status == "gone" and answers[-1:] != (self._stalls,):
            # the phases went on without it while it stood still; its next look at the clock shows that
            answers = (*answers, self._stalls)
        outcome = self._outcome(verb, self.scenario.path[process.place], answers)
        found: list[tuple[State, str]] = []
        if state.kills and process.answers and verb != "get":
            killed = _with(state, number, Process("killed"))
            found.append((killed._replace(kills=state.kills - 1), f"{name} is killed"))
        if outcome.error is not None:
            if answers != process.answers or self._stalls in answers:
                again = Process("idle", state.place, (), process.ended)
                expected = None if verb == "get" else state.expected
                found.append((_with(state, number, again)._replace(expected=expected), f"{name} begins again"))
            else:
                found.append((_with(state, number, Process("killed")), f"{name} raises an error"))
            return found
        if outcome.call is None:
            found.append(self._end(state, number, process, outcome.value))
            return found
        call = outcome.call
        label = f"{name}: {call.side}.{call.method}"
        if state.failures and call.side == TARGET and self.scenario.path[process.place] == Phase.DUAL:
            failed = process._replace(answers=(*answers, self._fails))
            found.append((_with(state, number, failed)._replace(failures=state.failures - 1), f"{label} fails"))
        content = state.source if call.side == SOURCE else state.target
        after, answer = self._stores.apply(content, call)
        following = _with(state, number, process._replace(answers=(*answers, answer)))
        sides = {"source": after} if call.side == SOURCE else {"target": after}
        found.append((following._replace(**sides), label))  # type: ignore[arg-type]
        return found

    def _end(self, state: State, number: int, process: Process, value: Any) -> tuple[State, str]:
        name, verb = self._name(number), self._verb(number)
        if verb == "get":
            return self._end_read(state, number, process, value)
        ended = _with(state, number, Process("ended"))
        history = state.history
        if verb == "forget":
            history = History(None, None, is_forgotten=True)
        elif not self._forget_has_begun(state):
            history = history._replace(stored="S" if "S" in (history.stored, verb[0]) else "F")
        return ended._replace(history=history), f"{name} ends"

    def _forget_has_begun(self, state: State) -> bool:
        return any(
            self._verb(number) == "forget" and process.status != "idle"
            for number, process in enumerate(state.processes[:-1])
        )

    def _end_read(self, state: State, number: int, process: Process, record: TaskRecord | None) -> tuple[State, str]:
        value, expected = letter_of(record), state.expected
        label = f"the reader reads {value}"
        assert expected is not None
        if expected.seen is not None and value != expected.seen:
            self._note("sticky", state, label)
        elif not _is_enough(value, expected.stored):
            self._note("stored", state, label)
        if expected.is_forgotten and state.history.is_forgotten and value is not None:
            is_beside = any(
                each.status in ("runs", "gone") and self._verb(writer) != "forget"
                for writer, each in enumerate(state.processes[:-1])
            )
            self._note(BESIDE if is_beside else "forgotten", state, label)
        history = state.history
        if value is not None and value[0] == "S" and not self._forget_has_begun(state):
            history = history._replace(seen=history.seen or value)
        ended = process.ended + 1
        is_last = ended >= self.scenario.reads
        # who has stood still for so long looks at the phase before the next verb
        place = state.place if process.status == "gone" else process.place
        after = Process("ended") if is_last else Process("idle", place, (), ended)
        return _with(state, number, after)._replace(history=history, expected=None), label

    # -- the phases

    def _coordinate(self, state: State) -> list[tuple[State, str]]:
        path = self.scenario.path
        if state.place + 1 >= len(path):
            return []
        name = self.scenario.passes.get((path[state.place], path[state.place + 1]))
        if isinstance(state.answers, tuple):
            assert name is not None
            return [self._go_on_with_pass(state, name, state.answers)]
        if not all(self._has_confirmed(state, process) for process in state.processes):
            return []
        state = state._replace(processes=tuple(self._gone(state, each) for each in state.processes))
        if name is None or state.answers == "done":
            following = state._replace(place=state.place + 1, answers=None)
            return [(following, f"the phase is {self._phase(state.place + 1)}")]
        return [(state._replace(answers=()), f"the pass {name} begins")]

    def _has_confirmed(self, state: State, process: Process) -> bool:
        if process.status in ("ended", "killed"):
            return True
        return process.place == state.place or (self.scenario.stalls and process.status in ("runs", "gone"))

    def _gone(self, state: State, process: Process) -> Process:
        is_silent = process.status == "runs" and process.place != state.place
        return process._replace(status="gone") if is_silent else process

    def _go_on_with_pass(self, state: State, name: str, answers: tuple[int, ...]) -> tuple[State, str]:
        outcome = self._outcome(name, None, answers)
        if outcome.call is None:
            assert outcome.error is None
            return state._replace(answers="done"), f"the pass {name} ends"
        call = outcome.call
        content = state.source if call.side == SOURCE else state.target
        after, answer = self._stores.apply(content, call)
        sides = {"source": after} if call.side == SOURCE else {"target": after}
        return state._replace(answers=(*answers, answer), **sides), f"pass: {call.side}.{call.method}"  # type: ignore[arg-type]

    def _phase(self, place: int) -> str:
        return Phase(self.scenario.path[place]).name

    # -- what the code does

    def _outcome(self, verb: str, phase: int | None, answers: tuple[int, ...]) -> Outcome:
        # on the way back, chords alone ask for more: a task has none here
        key = verb, phase, answers
        found = self._outcomes.get(key)
        if found is None:
            values = tuple(self._stores.answers.values[each] for each in answers)
            code = PASSES[verb] if phase is None else _code(verb, Phase(phase))
            found = self._outcomes[key] = run(code, values)
        return found

    # -- the end

    def _is_over(self, state: State) -> bool:
        return state.place + 1 == len(self.scenario.path) and all(
            process.status in ("ended", "killed") for process in state.processes
        )

    def _check_end(self, state: State) -> None:
        if not self._is_over(state):
            # a process waits for something that never happens
            self._note("stuck", state, "nothing can happen")
            return
        last = self.scenario.path[-1]
        in_source, in_target = (
            letter_of(self._stores.contents.values[content].tasks.get(TASK_ID))
            for content in (state.source, state.target)
        )
        left = in_target if last >= Phase.TARGET_FIRST else in_source
        label = f"at the end, {in_source} is in the source and {in_target} in the target"
        is_changed = state.history.seen is not None and left != state.history.seen
        if is_changed or not _is_enough(left, state.history.stored):
            self._note("end", state, label)
        is_disturbed = state.kills < self.scenario.kills or state.failures < self.scenario.failures
        if state.history.is_forgotten and left is not None and not is_disturbed:
            self._note("forgotten", state, label)
        is_double = Phase.DUAL <= last < Phase.TARGET_FIRST or (last == Phase.TARGET_FIRST and self._succeeds())
        if is_double and not is_disturbed and in_source != in_target:
            self._note("alike", state, label)

    def _succeeds(self) -> bool:
        return any(writer[0] == "S" for writer in self.scenario.writers)

    def _note(self, kind: str, state: State, label: str) -> None:
        if kind in self.found:
            return
        labels = [label]
        at: State | None = state
        while at is not None and (before := self._seen[at]) is not None:
            at, step = before
            labels.append(step)
        self.found[kind] = labels[::-1]


def _with(state: State, number: int, process: Process) -> State:
    return state._replace(processes=(*state.processes[:number], process, *state.processes[number + 1 :]))


def _is_enough(value: str | None, stored: str | None) -> bool:
    """Return whether a result is at least as good as the best state that was stored."""
    if stored == "S":
        return value is not None and value[0] == "S"
    return stored is None or value is not None


def _code(verb: str, phase: Phase) -> Callable[[ScriptedStore, ScriptedStore], Any]:
    """Return what a process runs for a verb: the dual store, in one phase."""

    def call(source: ScriptedStore, target: ScriptedStore) -> Any:
        store = DualStore(source, target, FixedPhases(phase), mirror_timeout=None)  # type: ignore[arg-type]
        if verb == "get":
            return store.get(TASK_ID)
        if verb == "forget":
            return store.delete([TASK_ID])
        return store.put(result(verb))

    return call
