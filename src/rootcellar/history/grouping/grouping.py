"""Computes the group of a failure.

``group = hash(type, place)``. The place is the innermost function of the application itself, with the line of its
source that failed, and without its number. So callers, tasks, workers and versions of Python make no difference: an
outage of a database is one group, although forty tasks fail. If no frame is the application's own, the place is the
task, together with the template of the message.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rootcellar.history.grouping.described import Described, chosen_group, describe, printed_type
from rootcellar.history.grouping.frames import Frame, Traceback, read_traceback
from rootcellar.history.grouping.identity import group_of, text_of_group
from rootcellar.history.grouping.in_app import Application
from rootcellar.history.grouping.many import NewGroups
from rootcellar.history.grouping.own import DEFAULT, own_parts
from rootcellar.history.grouping.template import template_of

#: functions that Python before 3.12 makes of a comprehension
_COMPREHENSIONS = frozenset({"<listcomp>", "<dictcomp>", "<setcomp>"})
#: the place of a syntax error has no function
_SYNTAX = "<syntax>"
#: exceptions that another thread or a signal raises, at any line
_ANYWHERE = frozenset({"celery.exceptions.SoftTimeLimitExceeded", "KeyboardInterrupt"})
_RECURSION, _CHORD = "RecursionError", "celery.exceptions.ChordError"
#: what Celery and this package write about a failed part of a chord
_DEPENDENCY = re.compile(r"Dependency (?P<id>\S{1,255}) raised (?P<type>[\w.]{1,300})(?P<rest>.{0,600})", re.DOTALL)
_LONGEST_SOURCE, _LONGEST_TYPE, _MAX_TYPES = 120, 200, 20


@dataclass(frozen=True, slots=True)
class Grouped:
    """The group of a failure, and what it is called.

    Attributes:
        group: the number of the group.
        type: the type of the exception.
        place: ``module:function``, or the name of the task if no frame is the application's own.
        template: the template of the message.
        dependency: the id of the task that failed, if this one is the body of its chord.
    """

    group: int
    type: str
    place: str
    template: str
    dependency: str | None = None

    @property
    def text(self) -> str:
        """The group in its text form."""
        return text_of_group(self.group)


@dataclass(frozen=True, slots=True)
class _Place:
    name: str
    #: what identifies it, in addition to its name
    details: tuple[str, ...] = ()


class Grouper:
    """Computes groups. Safe to use from any thread.

    Args:
        application: knows which frames are the application's own.
        key: makes the numbers of this deployment its own, as in :func:`~.identity.group_of`.
        new_groups: limits the groups of each task; ``None`` for no limit.
    """

    def __init__(self, application: Application, key: bytes = b"", new_groups: NewGroups | None = None) -> None:
        self._application = application
        self._key = key
        self._new_groups = new_groups

    def group(
        self,
        failure: Any,
        traceback: str | None,
        task: str | None,
        exc: Any = None,
        redact: Callable[[str], str] | None = None,
    ) -> Grouped:
        """Return the group of a failure; that of :meth:`many` if its task has made too many groups.

        Args:
            failure: the exception, or its stored form. Any other value has no type.
            traceback: the text of the traceback.
            task: the name of the task.
            exc: the exception itself if it is at hand: then the application's functions are asked.
            redact: masks secrets in the message if it is not in the traceback, which must not have any.
        """
        found = self._one(failure, traceback, task, exc, redact)
        if self._new_groups is not None and self._new_groups.is_too_many(task or "", found.group):
            return self.many(found, task)
        return found

    def many(self, one: Grouped, task: str | None) -> Grouped:
        """Return the group of all failures of one type of a task, instead of too many groups."""
        name = task or ""
        group = group_of(("many", one.type, name), self._key)
        return Grouped(group, one.type, f"many places of {name}", one.template, one.dependency)

    def _one(
        self,
        failure: Any,
        traceback: str | None,
        task: str | None,
        exc: Any,
        redact: Callable[[str], str] | None,
    ) -> Grouped:
        described, read = describe(failure), read_traceback(traceback or "")
        own = chosen_group(exc) if isinstance(exc, BaseException) else described.own
        kind, message, is_read = _type_and_message(described, read)
        if redact is not None and not is_read:
            message = redact(message)
        name = task or ""
        if kind == _CHORD and (found := _DEPENDENCY.match(message)) is not None:
            title = f"ChordError: {found['type']}"[:_LONGEST_TYPE]
            template = template_of(found["type"] + found["rest"])
            # the name of the body is not at hand wherever its failure is stored
            place = _Place("chord", (template,))
            return self._grouped(("chord", title), title, place, template, own_parts(exc, task, own), found["id"])
        template = template_of(message)
        title = _title(kind, described.leaves)
        place = self._place(kind, read, name) or _Place(name, (template,))
        # which exception is being handled says nothing if this one may come at any line
        others = set() if kind in _ANYWHERE else set(map(printed_type, read.others))
        identity = ("failure", kind, *described.leaves, "after", *sorted(others)[:_MAX_TYPES])
        return self._grouped(identity, title, place, template, own_parts(exc, task, own))

    def _grouped(
        self,
        identity: Sequence[str],
        title: str,
        place: _Place,
        template: str,
        own: Sequence[str],
        dependency: str | None = None,
    ) -> Grouped:
        computed = group_of((*identity, "at", place.name, *place.details), self._key)
        group = computed
        if own and tuple(own) != (DEFAULT,):
            default = text_of_group(computed)
            group = group_of(("own", *(default if part == DEFAULT else part for part in own)), self._key)
        return Grouped(group, title, place.name, template, dependency)

    def _place(self, kind: str, read: Traceback, task: str) -> _Place | None:
        """Return the place in the application's own code, or ``None`` if no frame is there."""
        for frames in (read.frames, read.members):
            own = list(self._own(frames, task))
            if own:
                return _place_of(kind, own)
        return None

    def _own(self, frames: Sequence[Frame], task: str) -> Iterator[tuple[str, Frame]]:
        """Yield each of the application's own frames with ``module:function``, the innermost first."""
        source = ""
        for frame in reversed(frames):
            if frame.function in _COMPREHENSIONS:
                # in later versions, the frame of the function itself shows this line
                source = source or frame.source
                continue
            module = self._application.module_of(frame.path, task)
            if module:
                name = f"{module}:{frame.function or _SYNTAX}"
                yield name, Frame(frame.path, frame.function, source or frame.source, frame.is_repeated)
            source = ""


def _place_of(kind: str, own: Sequence[tuple[str, Frame]]) -> _Place:
    if kind in _ANYWHERE:
        # the function of the task
        return _Place(own[-1][0])
    if kind == _RECURSION:
        often = {name for name, count in Counter(name for name, _ in own).items() if count > 2}
        repeated = {name for name, frame in own if frame.is_repeated} | often
        if repeated:
            # the recursion ends in any of the functions that call each other
            first, *others = sorted(repeated)
            return _Place(first, tuple(others))
    name, frame = own[0]
    return _Place(name, (" ".join(frame.source.split())[:_LONGEST_SOURCE],))


def _type_and_message(described: Described, read: Traceback) -> tuple[str, str, bool]:
    """Return the type and the message, and whether the message is from the traceback.

    The message is that of the traceback if it shows the same exception, else that of the exception's data.
    """
    printed = printed_type(read.type) if read.type else ""
    if not described.type:
        return printed, read.message or described.message, bool(read.message)
    is_same = printed.rpartition(".")[2] == described.type.rpartition(".")[2]
    return described.type, read.message if is_same else described.message, is_same


def _title(kind: str, leaves: Sequence[str]) -> str:
    if not leaves:
        return kind[:_LONGEST_TYPE]
    return f"{kind}: {', '.join(leaves)}"[:_LONGEST_TYPE]
