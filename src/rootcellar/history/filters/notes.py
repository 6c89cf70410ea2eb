"""What a reader should know about a filter that is correct, and may not mean what the reader thinks."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator

from rootcellar.history.filters.fields import STATE_GROUPS
from rootcellar.history.filters.predicate import states_of
from rootcellar.history.filters.tree import And, Field, Filter, Node, Not, Pattern, fields_of

#: the states of Celery, and SENT
STATES = ("PENDING", "RECEIVED", "STARTED", "SUCCESS", "FAILURE", "REVOKED", "RETRY", "SENT")
#: states and groups of states: in lower case -> as they are written
_WRITTEN = {**{name: name for name in STATE_GROUPS}, **{state.lower(): state for state in STATES}}
#: fields that have only one value in a task
_SINGLE = ("state", "task", "queue", "worker", "id", "group", "root", "parent", "failure")


def notes(query: Filter, is_masked: Callable[[tuple[str, ...]], bool] = lambda path: False) -> tuple[str, ...]:
    """Return what a reader should know, each in a sentence.

    Args:
        query: the filter.
        is_masked: says whether the value at a path of keyword arguments is masked before it is stored.
    """
    return tuple(
        dict.fromkeys(
            [
                *_misspelt_states(query.condition),
                *_contradictions(query.condition),
                *_masked(query.condition, is_masked),
            ]
        )
    )


def _misspelt_states(node: Node | None) -> Iterator[str]:
    """An application may have states of its own, so an unknown state is no error."""
    for field in fields_of(node):
        for value in field.values if field.name == "state" else ():
            text = value.text if isinstance(value, Pattern) else None
            if text is None or text.upper() in STATES or text in STATE_GROUPS:
                continue
            if meant := difflib.get_close_matches(text.lower(), _WRITTEN, n=1, cutoff=0.75):
                yield f"{text} is not a state of Celery: did you mean {_WRITTEN[meant[0]]}?"


def _contradictions(node: Node | None) -> Iterator[str]:
    """The same field twice means both, and a task has only one state."""
    terms = node.terms if isinstance(node, And) else ()
    for name in _SINGLE:
        wanted = [texts for term in terms if (texts := _whole_texts(term, name)) is not None]
        if len(wanted) > 1 and not set.intersection(*wanted):
            yield f"nothing can match: {name}: is there twice, with different values; write {name}:a,b for either"


def _whole_texts(node: Node, name: str) -> set[str] | None:
    """Return the only texts that a task may have; ``None`` if the term allows others."""
    if isinstance(node, Not) or not isinstance(node, Field) or node.name != name:
        return None
    texts: set[str] = set()
    for value in node.values:
        if not isinstance(value, Pattern) or value.text is None:
            return None
        if name != "state":
            texts.add(value.text)
            continue
        found = states_of(value)
        if found is None or found[1]:
            return None
        texts.update(found[0])
    return texts


def _masked(node: Node | None, is_masked: Callable[[tuple[str, ...]], bool]) -> Iterator[str]:
    for field in fields_of(node):
        path = tuple(step.name for step in field.path if step.name is not None)
        if field.name in ("args", "kwargs") and path and is_masked(path):
            yield f"{field.name}.{'.'.join(path)} is masked before it is stored, so its value cannot be found"
