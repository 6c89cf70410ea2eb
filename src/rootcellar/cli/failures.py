"""``rootcellar failures``: lists the groups of failures, shows one of them, and marks it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from rootcellar.cli.options import Choice, FilterArgument, JsonOption, filter_text, store_options
from rootcellar.cli.output import WrongUse, console, print_json, say, say_beside, visible
from rootcellar.cli.stores import existing_history
from rootcellar.cli.times import full_moment, parse_moment, parse_span, show_moment
from rootcellar.history.failure_details import OPEN
from rootcellar.history.failure_groups import BACK, MUTED, NEW, RESOLVED, RISING, FailureGroup, Failures
from rootcellar.history.filters import Filter, sentence

EXAMPLES = """\b
Examples:
  rootcellar failures -A shop.celery
  rootcellar failures since:24h 'task:shop.*' --json
  rootcellar failures 7K2Q9XMD
  rootcellar failures 7K2Q9XMD --mute 7d --note 'the supplier repairs it'
"""
#: one word that can only be the text form of a group: capital letters and digits, or a digit among small letters
_GROUP = re.compile(r"[0-9A-HJKMNP-TV-Z]{8}|(?=[a-z]*[0-9])[0-9a-hjkmnp-tv-z]{8}")
_BARS = " ▁▂▃▄▅▆▇█"
_STYLES = {NEW: "bold red", BACK: "bold red", RISING: "yellow", RESOLVED: "green", MUTED: "dim"}
_ENCRYPTED = "(its type and place cannot be read here)"
#: two lines for each of ten groups fit on a screen of 24 lines
_LINES = "{:8}  {:8}  {:>8}  {:>5}  {:>11}  {:>11}  {}"
_FOREVER = "forever"


@store_options
def failures(
    choice: Choice,
    words: FilterArgument = None,
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="N", help="The most groups to list")] = 10,
    resolve: Annotated[
        bool, typer.Option("--resolve", help="Mark the group as resolved; it is `back` if it fails again")
    ] = False,
    mute: Annotated[
        str | None,
        typer.Option("--mute", metavar="UNTIL", help="Mute the group for 2h or 7d, until a date, or forever"),
    ] = None,
    reopen: Annotated[bool, typer.Option("--reopen", help="Remove the mark of the group")] = False,
    note: Annotated[str | None, typer.Option("--note", metavar="TEXT", help="A note for other people")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the worst groups of failures, or show or mark one group.

    A group has the failures of one type at one place of the application's code. New groups come first, then those that
    failed again after a week without a failure, then those that are rising, then the most frequent. To see one group,
    give its letters instead of FILTER. docs/failures.md explains everything.
    """
    group = _group_of(words)
    marks = [resolve, mute is not None, reopen]
    if (any(marks) or note is not None) and (group is None or sum(marks) != 1):
        raise WrongUse("give one group, such as 7K2Q9XMD, and one of --resolve, --mute and --reopen")
    with existing_history(choice) as history:
        if group is not None and any(marks):
            status = RESOLVED if resolve else OPEN if reopen else MUTED
            history.mark(group, status, until=_end(mute), note=note)
        if group is not None:
            found = history.failure(group)
            print_json(_json_details(found)) if as_json else _print_details(found, console())
            return
        query = history.parsed(filter_text(words))
        listed = history.failures(query, limit=limit)
        where, clock = history.store.where, history.clock
    if as_json:
        print_json([_json(each) for each in listed])
    elif listed:
        _print(listed, console())
    else:
        say(f"No failure {'matches' if query != Filter() else 'is stored'} in {where}.")
    if query != Filter() and not as_json:
        text = sentence(query, clock)
        say_beside(f"{text[:1].upper()}{text[1:]}.")
    if not listed.is_exact:
        say_beside("Not all results are counted yet, so there may be more failures.")
    if listed.searched_back_to is not None:
        say_beside(
            f"Searched back to {full_moment(listed.searched_back_to)}; "
            "a filter with only task: and since: has no limit."
        )


def _group_of(words: Sequence[str] | None) -> str | None:
    """Return the group if there is only one word, and it is a group."""
    return words[0] if words and len(words) == 1 and _GROUP.fullmatch(words[0]) else None


def _end(mute: str | None) -> datetime | None:
    """Return the end of a mark.

    Raises:
        typer.BadParameter: it is neither a duration nor a date in the future.
    """
    if mute is None or mute == _FOREVER:
        return None
    now = datetime.now(timezone.utc)
    try:
        return now + parse_span(mute)
    except (ValueError, OverflowError):
        pass
    try:
        end = parse_moment(mute)
    except ValueError:
        raise typer.BadParameter(
            f"{mute!r} is no time: write 2h, 7d, a date, or forever", param_hint="--mute"
        ) from None
    if end <= now:
        raise typer.BadParameter(f"{mute} is in the past", param_hint="--mute")
    return end


def _print(listed: Failures, out: Console) -> None:
    """Print two lines for each group. On a terminal they are cut at its width."""
    heading = ("GROUP", "STATUS", "FAILURES", "TASKS", "FIRST", "LAST", "LAST 24 HOURS")
    _print_line(Text(_LINES.format(*heading), style="bold"), out)
    for group in listed:
        numbers = _LINES.format(
            group.group,
            group.status,
            f"{group.count:,}",
            f"{len(group.tasks):,}",
            show_moment(group.first_seen),
            show_moment(group.last_seen),
            _bars(group.trend, 2),
        )
        line = Text(numbers)
        line.stylize(_STYLES.get(group.status, ""), 10, 18)
        _print_line(line, out)
        _print_line(Text(f"  {visible(_title(group))}", style="dim" if group.status == MUTED else ""), out)
    if listed.more:
        groups = "one more group" if listed.more == 1 else f"{listed.more:,} more groups"
        say(f"There are {groups}; --limit {len(listed) + listed.more} shows all.")


def _print_line(line: Text, out: Console) -> None:
    line.rstrip()
    if out.is_terminal:
        line.truncate(out.width, overflow="ellipsis")
    out.print(line, soft_wrap=True)


def _title(group: FailureGroup) -> str:
    if group.type is None:
        return _ENCRYPTED
    name = f"{group.type} in {group.place}" if group.place else group.type
    return f"{name}: {group.template}" if group.template else name


def _bars(trend: Sequence[int], step: int) -> str:
    """Return one bar for every ``step`` hours; the tallest for the most failures."""
    sums = [sum(trend[place : place + step]) for place in range(0, len(trend), step)]
    most = max(sums, default=0)
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // most) if most else 0] for count in sums)


def _print_details(group: FailureGroup, out: Console) -> None:
    title = Text.assemble((group.status, _STYLES.get(group.status, "bold")), "  ", visible(_title(group)))
    out.print(title, soft_wrap=True)
    fields = [(label, value) for label, value in _fields(group) if value]
    width = max(len(label) for label, _ in fields)
    for label, value in fields:
        out.print(Text(f"  {label:{width}}  ", style="dim").append(visible(value), style="not dim"), soft_wrap=True)
    for heading, lines in _blocks(group):
        out.print(Text(f"\n{heading}", style="bold"), soft_wrap=True)
        for line in lines:
            out.print(Text(f"  {visible(line)}"), soft_wrap=True)


def _fields(group: FailureGroup) -> Iterator[tuple[str, str | None]]:
    yield "group", group.group
    if group.status == MUTED:
        yield "muted", f"until {full_moment(group.muted_until)}" if group.muted_until else "for ever"
    yield "note", group.note
    yield "failures", f"{group.count:,}"
    yield "first seen", full_moment(group.first_seen)
    yield "last seen", full_moment(group.last_seen)
    yield "24 hours", _bars(group.trend, 1).strip() and _bars(group.trend, 1)


def _blocks(group: FailureGroup) -> Iterator[tuple[str, list[str]]]:
    yield "Tasks", [f"{count:>8,}  {name or '(no name)'}" for name, count in list(group.tasks.items())[:10]]
    if group.variants:
        lines = [f"{variant.count:>8,}  {variant.template or '(no message)'}" for variant in group.variants]
        lines += [f"{group.other_variants:>8,}  others"] if group.other_variants else []
        looked_at = sum(variant.count for variant in group.variants) + group.other_variants
        yield f"Messages of the newest {looked_at:,}" if looked_at < group.count else "Messages", lines
    if group.facets:
        yield (
            "In common",
            [
                f"{facet.name} {facet.value}: {facet.share:.0%}, other tasks {facet.others:.0%}"
                for facet in group.facets
            ],
        )
    if group.newest:
        yield "Newest tasks (`rootcellar show ID` shows the traceback)", list(group.newest)
    if group.oldest and group.oldest not in group.newest:
        yield "Oldest stored task", [group.oldest]
    yield "Its tasks", [f"rootcellar history failure:{group.group}"]


def _json(group: FailureGroup) -> dict[str, Any]:
    return {
        "group": group.group,
        "type": group.type,
        "place": group.place,
        "template": group.template,
        "count": group.count,
        "tasks": dict(group.tasks),
        "first_seen": group.first_seen.isoformat(),
        "last_seen": group.last_seen.isoformat(),
        "status": group.status,
        "example": group.example,
        "trend": list(group.trend),
        "muted_until": None if group.muted_until is None else group.muted_until.isoformat(),
        "note": group.note,
    }


def _json_details(group: FailureGroup) -> dict[str, Any]:
    return {
        **_json(group),
        "variants": [{"template": each.template, "count": each.count} for each in group.variants],
        "other_variants": group.other_variants,
        "newest": list(group.newest),
        "oldest": group.oldest,
        "facets": [
            {"name": each.name, "value": each.value, "share": each.share, "others": each.others}
            for each in group.facets
        ],
    }
