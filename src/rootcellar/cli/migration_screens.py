"""What `rootcellar migrate` prints: the plan, the status, and how far the coordinator is."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from rich.text import Text

from rootcellar.cli.output import console, print_beside, say, say_beside, visible, visible_lines
from rootcellar.cli.times import show_moment
from rootcellar.migration.confirmations import Process
from rootcellar.migration.coordinator import Watching
from rootcellar.migration.plan import Finding, Level
from rootcellar.migration.progress import progress_line, span
from rootcellar.migration.state import NAMES, PassKind, PassState, State, VerifiedState
from rootcellar.migration.status import Status
from rootcellar.stores.dual.phases import Phase

#: the width of the labels
_LABEL = 13
_COLOURS = {Level.OK: "green", Level.NOTE: "yellow", Level.REFUSED: "bold red"}
#: the most processes and events that are printed
_PROCESSES, _EVENTS = 10, 5
#: seconds between two lines of progress: on a terminal, and elsewhere; and between two of silent processes
_ON_TERMINAL, _IN_PIPE, _SILENT_EVERY = 1.0, 5.0, 10.0

_WHAT = {
    PassKind.EQUAL: "results read",
    PassKind.FORTH: "results read",
    PassKind.BACK: "results read in the target",
}
#: what comes after each phase
_NEXT: Mapping[Phase, str] = {
    Phase.PREPARED: "`rootcellar migrate start`: then results are written to both stores",
    Phase.DUAL: "`rootcellar migrate advance`: then readers ask the target first",
    Phase.SWITCHING: "`rootcellar migrate advance`: then the target is written first",
    Phase.TARGET_FIRST: "`rootcellar migrate advance`: then only the target is used, and there is no way back",
    Phase.TARGET_ONLY: "`rootcellar migrate retire`: then the source is not needed any more",
    Phase.RETIRED: "set CELERY_RESULT_BACKEND to the target, and remove ROOTCELLAR_MIGRATION",
}


# -- the plan


def print_plan(findings: Sequence[Finding], source: str, target: str) -> None:
    """Print what was found of both stores."""
    out = console()
    say(f"Migration from {source} to {target}", out)
    for each in findings:
        label = Text(f"{each.about:{_LABEL}}", "dim")
        label.append(f"{each.level.value:9}", _COLOURS[each.level])
        print_beside(label, visible_lines(each.text), out)


# -- the status


def print_status(status: Status, source: str, target: str) -> None:
    """Print everything that is known of a migration."""
    out = console()
    say(f"Migration from {source} to {target}", out)
    for label, text in _lines(status):
        print_beside(f"{label:{_LABEL}}", visible_lines(text), out)


def _lines(status: Status) -> Iterator[tuple[str, str]]:
    if status.problem:
        yield "Target", f"cannot be asked: {status.problem}. What follows is what the source knows."
    state = status.state
    if state is None:
        yield "Phase", "prepared: nothing has begun"
        yield "Processes", f"{len(status.processes):,} follow the migration"
        yield "Next", _NEXT[Phase.PREPARED]
        return
    back = " on the way back" if state.direction.value == "back" else ""
    since = f"since {show_moment(state.phase_since)}, for {_ago(status.at - state.phase_since)}"
    yield "Phase", f"{NAMES[state.phase]}{back}, {since}"
    if status.owner is not None:
        silent = ", and is gone: it was killed, or cannot reach the target" if status.owner.is_gone else ""
        yield "Operator", f"{visible(status.owner.name)}: {visible(status.owner.work)}{silent}"
    yield from _process_lines(status)
    yield from _pass_lines(state)
    yield from _compared_lines(state, status)
    if state.postponed is not None:
        yield "Postponed", f"{state.postponed}. No other phase begins before `rootcellar migrate advance`"
    for number, event in enumerate(state.log[-_EVENTS:]):
        yield "" if number else "Log", f"{show_moment(event.at)}  {event.by}: {event.text}"
    yield "Next", _NEXT[state.phase]


def _process_lines(status: Status) -> Iterator[tuple[str, str]]:
    count = len(status.processes)
    confirmed = count - len(status.silent) - len(status.left_out)
    yield "Processes", f"{confirmed:,} of {count:,} have confirmed the phase"
    for process in status.silent[:_PROCESSES]:
        yield "  silent", _silent_text(status, process)
    if len(status.silent) > _PROCESSES:
        yield "", f"and {len(status.silent) - _PROCESSES:,} more"
    for process in status.left_out[:_PROCESSES]:
        yield "  left out", f"{visible(process.name)}, last heard of {show_moment(process.heard_at)}"


def _silent_text(status: Status, process: Process) -> str:
    role = f" ({visible(process.role)})" if process.role else ""
    silent, heard = _ago(status.silent_for(process)), show_moment(process.heard_at)
    return f"{visible(process.name)}{role} for {silent}, last heard of {heard}"


def _pass_lines(state: State) -> Iterator[tuple[str, str]]:
    limit = "" if state.rate is None else f"; at most {state.rate:g} a second"
    work = state.work
    if work is None:
        if limit:
            yield "Rate", limit.removeprefix("; ")
        return
    yield "Pass", f"{pass_line(work)}{limit}"
    yield "", pass_counts(work)


def _compared_lines(state: State, status: Status) -> Iterator[tuple[str, str]]:
    if state.verified is not None:
        yield "Compared", f"{show_moment(state.verified.at)}  {verified_line(state.verified)}"
        yield from (("", line) for line in differences_lines(state.verified))
    if state.phase is Phase.DUAL:
        yield "Real reads", sampled_line(status.counters)
    noted = status.unmirrored
    if noted:
        yield "Noted", f"{noted:,} result{'s' * (noted != 1)} whose last state may be missing in one store"


def sampled_line(counters: Mapping[str, int]) -> str:
    """Return how many real reads were compared, and how many of them differed, by class."""
    sampled = counters.get("sampled", 0)
    classes = {
        name.removeprefix("differing/"): count for name, count in counters.items() if name.startswith("differing/")
    }
    if not sampled:
        return "none compared yet: one of 100 reads is compared during dual write"
    differing = sum(classes.values())
    if not differing:
        return f"{sampled:,} compared since the last pass, none differs"
    shown = ", ".join(f"{name}: {count:,}" for name, count in sorted(classes.items()) if count)
    return f"{sampled:,} compared since the last pass, {differing:,} differ ({shown})"


def pass_line(work: PassState) -> str:
    """Return how far a pass is, in one line."""
    if work.finished_at is not None:
        return f"{work.kind.value}: {work.done:,} results read, ended {show_moment(work.finished_at)}"
    line = progress_line(work.done, _WHAT[work.kind], work.total, work.rate, work.seconds_left)
    return f"{work.kind.value}: {line}"


def pass_counts(work: PassState) -> str:
    """Return what a pass has done."""
    parts = [f"{work.written:,} written", f"{work.kept:,} there already"]
    others = (("removed", work.removed), ("refused", work.refused), ("unreadable", work.unreadable))
    return ", ".join([*parts, *(f"{count:,} {name}" for name, count in others if count)])


def verified_line(verified: VerifiedState) -> str:
    """Return what a comparison found, in one line."""
    parts = [f"{verified.compared:,} results"]
    if verified.repaired:
        parts.append(f"{verified.repaired:,} repaired")
    left = sum(verified.left.values())
    parts.append(f"{left:,} differ" if left else "none differs")
    if verified.is_accepted and left:
        parts.append("accepted")
    if verified.only_in_target:
        parts.append(f"{verified.only_in_target:,} only in the target")
    return ", ".join(parts)


def differences_lines(verified: VerifiedState) -> Iterator[str]:
    """Yield a line for each class of differences, with some ids."""
    for kind, count in verified.left.items():
        if count:
            ids = ", ".join(visible(each) for each in verified.examples.get(kind, ())[:3])
            yield f"{count:,} {kind}" + (f": {ids}{', …' if count > 3 else ''}" if ids else "")


def next_step(phase: Phase) -> str:
    """Return what comes after a phase."""
    return _NEXT[phase]


def _ago(time_since: timedelta) -> str:
    return span(max(0.0, time_since.total_seconds()))


# -- how far the coordinator is


class Screen(Watching):
    """Prints on standard error what the coordinator does: on a terminal in one line that is replaced."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._every = _ON_TERMINAL if self._is_terminal else _IN_PIPE
        self._next = time.monotonic() + _ON_TERMINAL
        self._is_shown = False
        self._silent: tuple[str, ...] = ()
        self._next_silent = 0.0
        #: the epoch for which it was printed that all have confirmed
        self._confirmed = 0

    def waits(self, state: State, silent: Sequence[Process], seconds: float) -> None:
        """Name the silent processes when the wait gets long, when they change, and every ten seconds."""
        names = tuple(each.name for each in silent)
        if seconds < 2.0 or (len(names) >= len(self._silent) and time.monotonic() < self._next_silent):
            return
        self._silent, self._next_silent = names, time.monotonic() + _SILENT_EVERY
        shown = ", ".join(visible(name) for name in names[:_PROCESSES])
        more = f" and {len(names) - _PROCESSES:,} more" if len(names) > _PROCESSES else ""
        self._say(
            f"Waiting for {span(seconds)} until {shown}{more} confirm{'s' * (len(names) == 1)} the phase "
            f"'{NAMES[state.phase]}'. If one is gone for good: Ctrl-C, then the same command with --without HOST/PID."
        )

    def waits_for_left_out(self, state: State, processes: Sequence[Process], seconds: float) -> None:
        """Say once for how long the coordinator waits until a process that is left out can do nothing any more."""
        names = tuple(each.name for each in processes)
        if names == self._silent:
            return
        self._silent = names
        self._say(
            f"Going on without {', '.join(map(visible, names))} in {span(seconds)}, when nothing of it can be under "
            "way any more."
        )

    def passes(self, work: PassState) -> None:
        """Show how far the pass is."""
        self._line(pass_line(work))

    def passed(self, work: PassState) -> None:
        """Print what the pass has done."""
        self._say(f"Pass {work.kind.value}: {work.done:,} results read, {pass_counts(work)}.")

    def compares(self, records: int) -> None:
        """Show how far the comparison is."""
        self._line(f"{records:,} results compared")

    def compared(self, verified: VerifiedState) -> None:
        """Print what the comparison has found."""
        self._say(f"Compared: {verified_line(verified)}.")
        for line in differences_lines(verified):
            self._say(f"  {line}")

    def entered(self, state: State) -> None:
        """Print the phase that begins."""
        self._silent, self._next_silent = (), 0.0
        self._say(f"Phase '{NAMES[state.phase]}' begins.")

    def confirmed(self, state: State, processes: Sequence[Process]) -> None:
        """Print that all have confirmed, once for each phase."""
        if self._confirmed == state.epoch:
            return
        self._confirmed = state.epoch
        count = len(processes) - len(state.without)
        if not processes:
            self._say(f"No process follows the migration; the phase is '{NAMES[state.phase]}'.")
            return
        self._say(f"{count:,} of {len(processes):,} processes have confirmed the phase '{NAMES[state.phase]}'.")

    def end(self) -> None:
        """Remove the line from the terminal."""
        if self._is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._is_shown = False

    def _say(self, text: str) -> None:
        self.end()
        say_beside(text)

    def _line(self, text: str) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._every
        if self._is_terminal:
            width = console().width - 1
            print(f"\r{text[:width]}\x1b[K", end="", file=sys.stderr, flush=True)
            self._is_shown = True
        else:
            print(text, file=sys.stderr, flush=True)


def plan_object(findings: Sequence[Finding], source: str, target: str) -> dict[str, Any]:
    """Return a plan as plain data, for JSON."""
    return {
        "source": source,
        "target": target,
        "possible": not any(each.level is Level.REFUSED for each in findings),
        "findings": [{"level": each.level.value, "about": each.about, "text": each.text} for each in findings],
    }
