"""``rootcellar maintain``: reports on the tables of a store, and looks after them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Annotated, Any

import typer
from rich.text import Text

from rootcellar.cli.options import Choice, JsonOption, store_options
from rootcellar.cli.output import WrongUse, console, print_beside, print_json, say, say_beside, visible_lines
from rootcellar.cli.sizes import parse_size
from rootcellar.cli.stores import existing_results, load_app
from rootcellar.cli.times import parse_span, show_seconds
from rootcellar.errors import AbilityMissing
from rootcellar.maintenance.leadership import StoreLeader
from rootcellar.maintenance.upkeep.growth import DISK_VARIABLE
from rootcellar.maintenance.upkeep.part import Level, Part, Report, is_good, run_parts
from rootcellar.maintenance.upkeep.parts import Owner, PartsConfig, parts_of
from rootcellar.maintenance.upkeep.upkeep import Upkeep, UpkeepConfig
from rootcellar.maintenance.upkeep.vacuum import HoldersConfig
from rootcellar.opening import Results, backend_of
from rootcellar.retention.rules import SETTING as RULES
from rootcellar.stores import Store
from rootcellar.text.escaping import escaped

EXAMPLES = """\b
Examples:
  rootcellar maintain -A shop.celery
  rootcellar maintain -A shop.celery --apply --disk 100GB
  rootcellar maintain -A shop.celery --loop --every 1h
"""
#: the variable with the rules of retention, for a store that is named by its URL
RULES_VARIABLE = "ROOTCELLAR_RETENTION"
_NO_RULES = (
    f"Without --app, the rules are those of {RULES_VARIABLE}, and not those of the application: results that only its "
    "rules would archive are deleted."
)
_COLOURS = {Level.OK: "green", Level.ATTENTION: "yellow", Level.REFUSED: "yellow", Level.FAILED: "bold red"}
#: the widths of the columns
_WIDEST, _WIDEST_PART = max(len(level.value) for level in Level), 12


@store_options
def maintain(
    choice: Choice,
    apply: Annotated[bool, typer.Option("--apply", help="Do what the report says is due")] = False,
    loop: Annotated[
        bool, typer.Option("--loop", help="Do it again and again, until interrupted: instead of beat")
    ] = False,
    every: Annotated[
        str, typer.Option("--every", metavar="TIME", help="For --loop: the pause between two runs")
    ] = "1h",
    disk: Annotated[
        str | None,
        typer.Option(
            "--disk",
            metavar="SIZE",
            envvar=DISK_VARIABLE,
            show_envvar=True,
            help="How much room the tables have together: 100GB. It makes a forecast",
        ),
    ] = None,
    transaction_age: Annotated[
        str,
        typer.Option("--transaction-age", metavar="TIME", help="For how long a transaction may be open without notice"),
    ] = "10m",
    as_json: JsonOption = False,
) -> None:
    """Report what the tables of a store need, or do it (--apply).

    Each part has one line: the older table, the archive, expired results, the counts, what holds back vacuum, dead
    rows, invalid indexes, unused space, growth with a forecast, and the last run of each job. A part that fails does
    not stop the others. With the rights of a worker only, the parts that need more say which right is missing. --loop
    replaces beat: it acts, waits, and acts again. If several processes do so, one of them works.

    Less than 10,000 results that have expired, wait to be moved or wait for the archive count as nothing: they collect
    between two runs.

    Exit status: 0 if every line says ok, 1 if one says attention, refused or failed, 2 for wrong use; of --loop,
    143 after SIGTERM and 130 after Ctrl-C.
    """
    limit = None if disk is None else parse_size(disk, "--disk")
    holders = HoldersConfig(transaction_age=_seconds(transaction_age, "--transaction-age"))
    interval = UpkeepConfig(interval=_seconds(every, "--every"))
    with existing_results(choice) as results:
        parts = parts_of(results.store, _owner(choice, results), PartsConfig(limit=limit, holders=holders))
        if not parts:
            raise _nothing_to_do(results.store)
        if (apply or loop) and not results.conf:
            say_beside(_NO_RULES)
        if loop:
            _go_on(results.store, parts, interval, as_json)
            return
        reports = _run_once(results.store, parts, apply, as_json)
    if not is_good(reports):
        raise typer.Exit(1)


def _owner(choice: Choice, results: Results) -> Owner:
    sweep_chords = None
    if choice.app is not None:
        sweep_chords = backend_of(load_app(choice.app), f"--app {choice.app}").chords.sweep
    return Owner(
        codec=results.codec, conf=results.conf or {RULES: os.environ.get(RULES_VARIABLE)}, sweep_chords=sweep_chords
    )


def _nothing_to_do(store: Store) -> AbilityMissing:
    return AbilityMissing(
        "this store needs no maintenance: its server deletes expired results by itself",
        where=store.where,
        remedy="see how full the server is with `rootcellar metrics`",
    )


def _run_once(store: Store, parts: Sequence[Part], apply: bool, as_json: bool) -> Sequence[Report]:
    show = _ignore if as_json else _show
    if apply:
        upkeep = Upkeep(store, parts, on_report=show)
        upkeep.run_once()
        reports = upkeep.reports
    else:
        reports = []
        for report in run_parts(parts, apply=False):
            reports.append(report)
            show(report)
    if as_json:
        print_json(_as_object(reports, is_applied=apply))
    return reports


def _go_on(store: Store, parts: Sequence[Part], config: UpkeepConfig, as_json: bool) -> None:
    """Act again and again, until a signal ends the process."""
    upkeep = Upkeep(store, parts, config, _ignore if as_json else _show)
    upkeep.leader = StoreLeader(store, Upkeep.name)

    def end_run(done: int) -> None:
        if as_json:
            # one JSON document in each line, for programs that read while this runs
            typer.echo(escaped(json.dumps(_as_object(upkeep.reports, is_applied=True), ensure_ascii=True)))
        else:
            say(f"{_now()}  {done:,} done; the next run is in {show_seconds(config.interval)}")
        sys.stdout.flush()

    upkeep.run_here(end_run)


def _ignore(report: Report) -> None:
    """Print nothing: all reports are printed together."""


def _show(report: Report) -> None:
    """Print a line for a part, and what a person can do about it below."""
    out = console()
    label = Text(f"{report.level.value:<{_WIDEST}}", _COLOURS[report.level])
    print_beside(label.append(f"  {report.part:<{_WIDEST_PART}}", "dim"), visible_lines(report.text), out)
    for advice in report.advice:
        print_beside("-> ", visible_lines(advice), out, indent=_WIDEST + _WIDEST_PART + 2)


def _as_object(reports: Iterable[Report], *, is_applied: bool) -> dict[str, Any]:
    found = list(reports)
    return {
        "time": _now(),
        "applied": is_applied,
        "ok": is_good(found),
        "parts": [
            {
                "part": report.part,
                "level": report.level.value,
                "text": report.text,
                "advice": list(report.advice),
                "done": report.done,
                "seconds": round(report.seconds, 3),
                **report.facts,
            }
            for report in found
        ],
    }


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _seconds(text: str, option: str) -> float:
    try:
        return parse_span(text).total_seconds()
    except ValueError as exc:
        raise WrongUse(f"{option}: {exc}") from exc
