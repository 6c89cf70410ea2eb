"""Runs code that calls two stores, one call at a time, so that a test can interleave the calls of several processes.

Nothing runs at the same time here. A run of some code is repeated with the answers that it has had so far, and ends
where it makes the next call. So a process is no more than its code and the answers to its calls, and a state of the
whole system can be stored, compared and continued in every way.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from rootcellar.errors import StoreUnavailable
from rootcellar.stores.dual import verbs
from rootcellar.testing import memory
from rootcellar.testing.memory import MemoryStore

#: the two stores
SOURCE, TARGET = "S", "T"
#: given in place of an answer: the store cannot be reached
FAILS = "fails"
#: given before an answer: so much time has passed that others may be in a later phase
STALLS = "stalls"
#: what a pass asks beside the task of the model, with the answer: it changes nothing, so it is not scheduled
_ASIDE: Mapping[str, Any] = {"stream_groups": ([], None), "shared": {}}
#: where the contents of a store are while one of its methods runs
_URL = "memory://model"


@dataclass(frozen=True)
class Call:
    """A call to one of the stores."""

    side: str
    method: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What some code does with the answers that it has had: it makes a call, ends or raises an error."""

    call: Call | None = None
    value: Any = None
    error: Exception | None = None


class _NextCall(BaseException):
    """Ends a run at its next call. No code of rootcellar catches it."""

    def __init__(self, call: Call) -> None:
        self.call = call


class _Script:
    def __init__(self, answers: tuple[Any, ...]) -> None:
        self._answers = answers
        self._place = 0

    def answer(self, call: Call) -> Any:
        if self.is_stalled:
            self._place += 1
        if self._place == len(self._answers):
            raise _NextCall(call)
        answer = self._answers[self._place]
        self._place += 1
        if answer is FAILS:
            raise StoreUnavailable("the store is down", where=call.side)
        return copy.copy(answer)

    @property
    def is_stalled(self) -> bool:
        return self._place < len(self._answers) and self._answers[self._place] is STALLS


class ScriptedStore:
    """Stands for one of the stores: each call has the next answer of the script."""

    options = None
    expires_by_itself = False

    def __init__(self, side: str, script: _Script) -> None:
        self.url = self.where = side
        self._script = script

    def ability(self, protocol: type) -> ScriptedStore:
        return self

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):
            raise AttributeError(method)
        if method in _ASIDE:
            return lambda *args, **kwargs: _ASIDE[method]
        return lambda *args, **kwargs: self._script.answer(Call(self.url, method, args, kwargs))


class _Clock:
    """The clock of a verb: time passes only where the script says so."""

    def __init__(self, script: _Script) -> None:
        self._script = script
        self._is_read = False

    def monotonic(self) -> float:
        begins, self._is_read = not self._is_read, True
        return 0.0 if begins or not self._script.is_stalled else verbs.DEADLINE_SECONDS + 1


def run(code: Callable[[ScriptedStore, ScriptedStore], Any], answers: tuple[Any, ...]) -> Outcome:
    """Run some code with the answers that its calls have had so far."""
    script = _Script(answers)
    verbs.time = _Clock(script)  # type: ignore[assignment]
    try:
        return Outcome(value=code(ScriptedStore(SOURCE, script), ScriptedStore(TARGET, script)))
    except _NextCall as following:
        return Outcome(call=following.call)
    except StoreUnavailable as exc:
        return Outcome(error=exc)


def frozen(value: Any) -> Hashable:
    """Return a value that is equal for equal contents."""
    if is_dataclass(value) and not isinstance(value, type):
        if value.__hash__ is not None:
            try:
                hash(value)
            except TypeError:
                pass
            else:
                return value
        return type(value).__name__, tuple(frozen(getattr(value, each.name)) for each in fields(value))
    if isinstance(value, Mapping):
        return tuple(sorted(((frozen(key), frozen(each)) for key, each in value.items()), key=repr))
    if isinstance(value, (list, tuple)):
        return tuple(map(frozen, value))
    if isinstance(value, (set, frozenset)):
        return tuple(sorted(map(frozen, value), key=repr))
    return value


class Interned:
    """Gives each value a small number; equal values have the same one."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self.values: list[Any] = []

    def number(self, value: Any) -> int:
        key = frozen(value)
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = len(self.values)
            self.values.append(value)
        return found


class Stores:
    """The contents that a store can have, and what each call makes of them: the store in memory answers."""

    def __init__(self) -> None:
        self.contents = Interned()
        self.answers = Interned()
        self.empty = self.contents.number(memory._Place())
        self._done: dict[tuple[int, Hashable], tuple[int, int]] = {}

    def apply(self, content: int, call: Call) -> tuple[int, int]:
        """Return the contents after a call, and the answer, by their numbers."""
        key = content, (call.method, frozen(call.args), frozen(call.kwargs))
        found = self._done.get(key)
        if found is None:
            memory._places[_URL] = copy.deepcopy(self.contents.values[content])
            answer = getattr(MemoryStore(_URL), call.method)(*call.args, **call.kwargs)
            after = self.contents.number(memory._places.pop(_URL))
            found = self._done[key] = after, self.answers.number(answer)
        return found
