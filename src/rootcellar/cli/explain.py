"""``rootcellar explain``: explains an error or a finding, and what to do."""

from __future__ import annotations

from dataclasses import asdict
from itertools import groupby
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from rootcellar.cli.options import JsonOption
from rootcellar.cli.output import WrongUse, console, print_beside, print_json, say, visible
from rootcellar.troubleshooting.catalogue import Entry, entries, find, suggestions

EXAMPLES = """\b
Examples:
  rootcellar explain store-unavailable
  rootcellar explain redis-eviction --json
  rootcellar explain
"""


def explain(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="The name at the end of a message or a finding", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Explain an error or a finding of `rootcellar check`, and what to do.

    Without a name, list all of them. Exit status 0 if there is an entry, 2 if there is none of that name.
    """
    if name is None:
        _print_names(as_json)
        return
    entry = find(name)
    if entry is None:
        raise WrongUse(f"there is no entry {visible(name)!r}{_hint(name)}")
    if as_json:
        print_json(_as_object(entry))
    else:
        _print_entry(entry, console())


def _hint(name: str) -> str:
    likely = suggestions(name)
    return f"; did you mean {', '.join(likely)}?" if likely else "; `rootcellar explain` lists all names"


def _print_names(as_json: bool) -> None:
    if as_json:
        print_json([_as_object(entry) for entry in entries().values()])
        return
    out = console()
    width = max(map(len, entries())) + 2
    for group, members in groupby(entries().values(), key=lambda entry: entry.group):
        out.print(Text(group, style="bold"))
        for entry in members:
            print_beside(f"  {entry.name:{width}}", entry.title, out, style="")
        out.print()
    say("`rootcellar explain NAME` prints one of them.", out)


def _print_entry(entry: Entry, out: Console) -> None:
    out.print(Text.assemble((entry.name, "bold"), f" ({_kind(entry)})"))
    say(f"{entry.title[:1].upper()}{entry.title[1:]}.", out)
    for why, remedy in entry.causes:
        out.print()
        print_beside("why:   ", why, out)
        print_beside("do:    ", remedy, out)
    if entry.retryable is not None:
        out.print()
        print_beside("retry: ", _retrying(entry.retryable), out)
    if entry.see:
        out.print()
        say(f"See also: {', '.join(entry.see)}", out)


def _kind(entry: Entry) -> str:
    kinds = [f"error {entry.error}"] if entry.error else []
    kinds += [f"{entry.level} of `rootcellar check`"] if entry.level else []
    return ", ".join(kinds) or "symptom"


def _retrying(retryable: bool) -> str:
    if retryable:
        return "The problem may end by itself: workers and clients try again."
    return "The problem does not end by itself: change something, then try again."


def _as_object(entry: Entry) -> dict[str, Any]:
    found = asdict(entry)
    found["causes"] = [{"why": why, "remedy": remedy} for why, remedy in entry.causes]
    found["error"] = entry.error or None
    found["level"] = entry.level or None
    return found
