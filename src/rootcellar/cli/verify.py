"""``rootcellar verify``: compares all results of two stores."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from rootcellar.cli.endpoints import (
    GroupsOption,
    KeepOption,
    Opened,
    PickleOption,
    RateOption,
    SourceArgument,
    TargetArgument,
    check_not_migrated,
    check_pair,
    opened_end,
    parsed,
    wanted,
)
from rootcellar.cli.files import whole_file
from rootcellar.cli.options import FilterArgument, JsonOption, filter_text
from rootcellar.cli.output import number_of_tasks, print_json, say, say_beside, visible
from rootcellar.cli.progress import Lines
from rootcellar.errors import RootcellarError
from rootcellar.history.filters import Clock
from rootcellar.history.filters.pinned import pinned
from rootcellar.migration.checksums import Difference
from rootcellar.migration.collecting import collected_seldom
from rootcellar.migration.foreign.layouts import comparable
from rootcellar.migration.progress import Progress
from rootcellar.migration.throttle import Throttle
from rootcellar.migration.verifying import Found, Verified, Verifying
from rootcellar.opening import must_exist

EXAMPLES = """\b
Examples:
  rootcellar verify redis://localhost/0 postgresql://localhost/results
  rootcellar verify env:OLD env:NEW --repair
  rootcellar verify env:OLD env:NEW 'task:shop.* since:30d' --ids left.txt
"""

#: how many ids of a class are printed
_SHOWN = 5
_TEXTS = {
    Difference.MISSING: "missing in TARGET",
    Difference.ONLY_IN_TARGET: "only in TARGET",
    Difference.STATE: "another state",
    Difference.VALUE: "another value",
    Difference.TRACEBACK: "another traceback",
    Difference.TIMES: "other times",
    Difference.CALL: "another call",
    Difference.EXPIRY: "another expiry",
    Difference.GROUP_MISSING: "groups missing in TARGET",
    Difference.GROUP_ONLY_IN_TARGET: "groups only in TARGET",
    Difference.GROUP: "other groups",
}


def verify(
    source: SourceArgument,
    target: TargetArgument,
    words: FilterArgument = None,
    repair: Annotated[bool, typer.Option("--repair", help="Store SOURCE's result in TARGET where they differ")] = False,
    allow_more: Annotated[
        bool, typer.Option("--allow-more", help="What only TARGET has counts as no difference")
    ] = False,
    rate: RateOption = None,
    groups: GroupsOption = True,
    allow_pickle: PickleOption = False,
    keep: KeepOption = None,
    ids: Annotated[
        Path | None, typer.Option("--ids", metavar="FILE", help="Write every difference there: class, tab, id")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare every result of two stores: ids, states, values, tracebacks, times, expiry, and the call.

    Both stores are read at the same time. Only what differs is compared one by one, with what both stores have at that
    moment. Times may differ by a millisecond and the expiry by a second, because servers round them. A result that has
    expired counts as none. It lists the ids by class; a result may be in several classes. "another call" means name,
    arguments, queue, worker, retries, children, stamps and relations.

    Of another system, such as Celery's own backends, only what it keeps is compared.

    --repair stores SOURCE's result in TARGET. A newer result of TARGET stays, as for `rootcellar copy`, and what only
    TARGET has is never deleted.

    Exit status 0 if both are equal, or all was repaired; 1 if something is missing or different, or after an error.
    """
    text = filter_text(words)
    throttle, query = Throttle(rate), parsed(text)
    with (
        opened_end(source, "SOURCE", allow_pickle=allow_pickle, keep=keep) as one,
        opened_end(target, "TARGET", allow_pickle=allow_pickle) as other,
    ):
        check_pair(one.endpoint, other.endpoint)
        if other.endpoint.store is not None:
            must_exist(other.endpoint.store)
        if repair:
            check_not_migrated(other.endpoint)
        clock = Clock.local()
        which = wanted(query, str(pinned(query, clock)), one, clock)
        progress = Progress(_total(one, other))
        lines = Lines(progress, "results read on both sides")
        with _listed(ids) as note:
            verifying = Verifying(
                *comparable(one.endpoint, other.endpoint, one.codec),
                matches=which.matches,
                # a second process would compare also what one of them does not keep
                beside=other.spec if one.endpoint.layout is other.endpoint.layout is None else None,
                repair=repair,
                with_groups=groups,
                throttle=throttle,
                progress=progress,
                on_batch=lines.show,
                on_found=note,
            )
            try:
                with collected_seldom():
                    found = verifying.run()
            except SystemExit:
                lines.end()
                print("Interrupted. Run it again: it begins again.", file=sys.stderr)
                raise
            lines.end()
        left = found.left(allow_more=allow_more)
        if as_json:
            print_json(_as_object(found, left, one, other))
        else:
            _say(found, left, one, other, repair)
    if left:
        raise typer.Exit(1)


def _total(one: Opened, other: Opened) -> int | None:
    try:
        return one.endpoint.to_read.count_roughly() + other.endpoint.to_read.count_roughly()
    except RootcellarError:
        # only the display needs it
        return None


@contextmanager
def _listed(path: Path | None) -> Iterator[Callable[[Found], object]]:
    """Return what writes a difference into a file."""
    if path is None:
        yield lambda found: None
        return
    with whole_file(path) as file:
        yield lambda found: file.write(f"{found.kind.value}\t{visible(found.record_id)}\n".encode())


def _say(found: Verified, left: int, one: Opened, other: Opened, repair: bool) -> None:
    groups = f" and {found.groups:,} saved group{'s' * (found.groups != 1)}" if found.groups else ""
    say(f"{number_of_tasks(found.source_total)}{groups} in {one.endpoint.where}.")
    say(f"{number_of_tasks(found.target_total)} in {other.endpoint.where}.")
    for kind in Difference:
        if count := found.counts[kind]:
            say(f"{_TEXTS[kind]:26}{count:>10,}  {_some(found.ids[kind], count)}")
    if repaired := sum(found.repaired.values()):
        say(f"{repaired:,} difference{'s' * (repaired != 1)} repaired.")
    if newer := sum(found.newer.values()):
        say_beside(f"{newer:,} of them because the result in TARGET is newer; it stays.")
    if not found.counts:
        say("Everything is equal.")
    elif left and not repair:
        say_beside("--repair stores SOURCE's results in TARGET.")


def _some(ids: list[str], count: int) -> str:
    shown = ", ".join(map(visible, ids[:_SHOWN]))
    return shown if count <= _SHOWN else f"{shown}, …"


def _as_object(found: Verified, left: int, one: Opened, other: Opened) -> dict[str, Any]:
    return {
        "source": one.endpoint.where,
        "target": other.endpoint.where,
        "source_results": found.source_total,
        "target_results": found.target_total,
        "groups": found.groups,
        "left": left,
        "differences": {
            kind.value: {
                "count": count,
                "repaired": found.repaired[kind],
                "newer_in_target": found.newer[kind],
                "ids": found.ids[kind],
            }
            for kind in Difference
            if (count := found.counts[kind])
        },
    }
