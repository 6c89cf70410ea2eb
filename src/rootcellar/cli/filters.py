"""The filter of a command: its words, and the options that are short forms of terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import typer
from celery.states import ALL_STATES

from rootcellar.cli.options import filter_text
from rootcellar.cli.times import parse_moment
from rootcellar.history.filters import Clock, Filter, parse
from rootcellar.history.filters.parser import MAX_STARS
from rootcellar.history.filters.tree import And, Field, Moment, Node, Pattern


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortForms:
    """Options that stand for terms of a filter. The values of one option are alternatives; all options must match."""

    state: Sequence[str] = ()
    task: Sequence[str] = ()
    queue: Sequence[str] = ()
    worker: Sequence[str] = ()
    since: str | None = None
    until: str | None = None


def narrowed(words: Sequence[str] | None, short: ShortForms, clock: Clock) -> Filter:
    """Return the filter of a command's words, narrowed by its options.

    Args:
        words: the words of the filter; none match every task.
        short: the options.
        clock: the present and the zone of moments.

    Raises:
        FilterWrong: a term cannot be understood.
        typer.BadParameter: the value of an option cannot be understood.
    """
    query = parse(filter_text(words), clock)
    given: tuple[Node, ...] = () if query.condition is None else (query.condition,)
    terms = [*(term for node in given for term in (node.terms if isinstance(node, And) else (node,)))]
    for name in ("state", "task", "queue", "worker"):
        if texts := getattr(short, name):
            terms.append(Field(name, tuple(_pattern(name, text) for text in texts)))
    for name in ("since", "until"):
        if (text := getattr(short, name)) is not None:
            terms.append(Field(name, (_moment(name, text, clock),)))
    if not terms:
        return query
    return Filter(And(tuple(terms)) if len(terms) > 1 else terms[0], query.sort, query.is_descending)


def _pattern(option: str, text: str) -> Pattern:
    """Return the pattern of an option, in which every ``*`` is any text."""
    parts = text.split("*")
    # two stars in a row mean the same as one
    kept = [part for index, part in enumerate(parts) if part or index in (0, len(parts) - 1)]
    if len(kept) > MAX_STARS + 1:
        raise typer.BadParameter(f"write at most {MAX_STARS} stars", param_hint=f"--{option}")
    if option == "state":
        # names of groups of states, such as failed, and Celery's states may have any case
        kept = [text.upper() if text.upper() in ALL_STATES else text for text in kept]
    return Pattern(tuple(kept))


def _moment(option: str, text: str, clock: Clock) -> Moment:
    """Return a moment as the filter language knows it, or a date in any form of ISO 8601."""
    moment = Moment(text.strip())
    try:
        clock.extent(moment)
    except ValueError as exc:
        try:
            found = parse_moment(text, clock.now)
        except ValueError:
            raise typer.BadParameter(f"{text!r} is not a time: {exc}", param_hint=f"--{option}") from None
        return Moment(found.isoformat())
    return moment
