"""Tries every interleaving of a chord of two tasks during a migration: where is each part counted?

A client begins the chord, two workers store a result with a part, and one of them may be killed between two of its
calls. Its message is then delivered again: it reads whether the task has a SUCCESS, and otherwise runs it again.

What is found: ``hangs``, if the chord is complete in no store at the end, and ``twice``, if it is in both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from rootcellar.records import ChordPart, ChordRecord, Payload, TaskRecord
from rootcellar.stores.dual.phases import FixedPhases, Phase
from rootcellar.stores.dual.store import DualStore
from tests.migration.model.records import ENDED
from tests.migration.model.script import SOURCE, Outcome, Stores, run

GROUP_ID = "chord"
CLIENT = 2


class Process(NamedTuple):
    """The client or a worker: what it does, its phase, and the answers to the calls of its verb."""

    status: str = "idle"
    place: int = 0
    answers: tuple[int, ...] = ()


class State(NamedTuple):
    source: int
    target: int
    #: two workers and the client
    processes: tuple[Process, ...]
    place: int
    kills: int


def explore(path: Sequence[int]) -> tuple[dict[str, list[str]], int]:
    """Return what was found, with the steps that lead there, and the number of states."""
    return _Explorer(path).explore()


class _Explorer:
    def __init__(self, path: Sequence[int]) -> None:
        self._path = path
        self._stores = Stores()
        self._seen: dict[State, tuple[State, str] | None] = {}
        self._outcomes: dict[tuple[str, int, int, tuple[int, ...]], Outcome] = {}
        self.found: dict[str, list[str]] = {}

    def explore(self) -> tuple[dict[str, list[str]], int]:
        waits = Process("waits")
        start = State(self._stores.empty, self._stores.empty, (waits, waits, Process("begin")), 0, 1)
        self._seen = {start: None}
        waiting = deque([start])
        while waiting:
            state = waiting.popleft()
            following = list(self._following(state))
            if all(process.status == "ended" for process in state.processes):
                self._check_end(state)
            for after, label in following:
                if after not in self._seen:
                    self._seen[after] = (state, label)
                    waiting.append(after)
        return self.found, len(self._seen)

    def _following(self, state: State) -> Iterator[tuple[State, str]]:
        for number, process in enumerate(state.processes):
            name = "client" if number == CLIENT else f"worker {number + 1}"
            if process.place != state.place and not process.answers and process.status != "ended":
                yield _with(state, number, process._replace(place=state.place)), f"{name} learns of the phase"
            if process.status not in ("waits", "ended"):
                yield from self._go_on(state, number, process, name)
        if state.place + 1 < len(self._path) and all(
            process.place == state.place or process.status == "ended" for process in state.processes
        ):
            yield state._replace(place=state.place + 1), f"the phase is {Phase(self._path[state.place + 1]).name}"

    def _go_on(self, state: State, number: int, process: Process, name: str) -> Iterator[tuple[State, str]]:
        outcome = self._outcome(process, number)
        if state.kills and process.answers and number != CLIENT:
            # the message is delivered again: the worker reads the result first
            again = Process("reads", process.place)
            yield _with(state, number, again)._replace(kills=state.kills - 1), f"{name} is killed"
        if outcome.call is None:
            yield self._ended(state, number, process, outcome.value), f"{name} has done: {process.status}"
            return
        call = outcome.call
        content = state.source if call.side == SOURCE else state.target
        after, answer = self._stores.apply(content, call)
        sides = {"source": after} if call.side == SOURCE else {"target": after}
        following = _with(state, number, process._replace(answers=(*process.answers, answer)))
        yield following._replace(**sides), f"{name}: {call.side}.{call.method}"  # type: ignore[arg-type]

    def _outcome(self, process: Process, number: int) -> Outcome:
        key = process.status, number, process.place, process.answers
        found = self._outcomes.get(key)
        if found is None:
            code = partial(_run, process.status, number, self._phases(process.place))
            found = self._outcomes[key] = run(
                code, tuple(self._stores.answers.values[each] for each in process.answers)
            )
            assert found.error is None
        return found

    def _ended(self, state: State, number: int, process: Process, value: Any) -> State:
        if number == CLIENT and process.status == "begin":
            workers = tuple(each._replace(status="puts") for each in state.processes[:CLIENT])
            return state._replace(processes=(*workers, Process("size", process.place)))
        if process.status == "reads" and value is None:
            return _with(state, number, Process("puts", process.place))
        return _with(state, number, Process("ended", process.place))

    def _phases(self, place: int) -> FixedPhases:
        is_back = place > 0 and self._path[place] < self._path[place - 1]
        return FixedPhases(Phase(self._path[place]), is_back=is_back)

    def _check_end(self, state: State) -> None:
        chords = [self._stores.contents.values[each].chords.get(GROUP_ID) for each in (state.source, state.target)]
        complete = sum(chord is not None and chord.is_begun and chord.waits_for_its_body for chord in chords)
        if complete != 1:
            self._note("hangs" if complete == 0 else "twice", state)

    def _note(self, kind: str, state: State) -> None:
        if kind in self.found:
            return
        labels = []
        at: State | None = state
        while at is not None and (before := self._seen[at]) is not None:
            at, step = before
            labels.append(step)
        self.found[kind] = labels[::-1]


def _with(state: State, number: int, process: Process) -> State:
    return state._replace(processes=(*state.processes[:number], process, *state.processes[number + 1 :]))


def _run(status: str, number: int, phases: FixedPhases, source: Any, target: Any) -> Any:
    store = DualStore(source, target, phases, mirror_timeout=None)
    if status == "begin":
        return store.begin_chord(ChordRecord(group_id=GROUP_ID, body=Payload(b"body")))
    if status == "size":
        return store.size_chord(GROUP_ID, CLIENT)
    task_id = f"task {number + 1}"
    if status == "reads":
        return store.get(task_id)
    record = TaskRecord(task_id=task_id, state="SUCCESS", result=Payload(b"1"), done_at=ENDED)
    part = ChordPart(group_id=GROUP_ID, task_id=task_id, group_index=number, state="SUCCESS", delivery=task_id)
    return store.put(record, part)
