"""``rootcellar migrate``: moves results from one store to another while tasks are stored and read, and back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rootcellar.cli.confirmation import confirm
from rootcellar.cli.migration_pair import SourceArgument, TargetArgument, both_stores, opened_pair
from rootcellar.cli.migration_screens import (
    Screen,
    next_step,
    plan_object,
    print_plan,
    print_status,
    sampled_line,
    verified_line,
)
from rootcellar.cli.options import JsonOption, YesOption
from rootcellar.cli.output import WrongUse, print_json, say, say_beside, visible
from rootcellar.cli.times import parse_span
from rootcellar.migration.coordinator import Coordinator, Options, postpone, set_rate
from rootcellar.migration.operator import busy, living_owner
from rootcellar.migration.pair import Pair, pair_of
from rootcellar.migration.plan import Finding, Level, processes_on_hosts
from rootcellar.migration.plan import plan as plan_of
from rootcellar.migration.state import NAMES, Direction, State, StateBook
from rootcellar.migration.status import read_status, status_object
from rootcellar.stores import Store
from rootcellar.stores.dual.phases import Phase
from rootcellar.urls import redact

#: the command that is meant if none is named
_DEFAULT = "guide"
#: the variable that names the target
_VARIABLE = "ROOTCELLAR_MIGRATION"


class MigrateGroup(TyperGroup):
    """The commands of a migration. Two stores without a command mean the one that asks before each step."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the name of the default command before arguments that do not begin with a command."""
        asks_for_help = not args or args[0] in ("--help", "-h")
        if not asks_for_help and args[0] not in self.commands:
            args = [_DEFAULT, *args]
        elif not args and os.environ.get(_VARIABLE):
            args = [_DEFAULT]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=MigrateGroup,
    help="Move results to another store while workers and clients go on, and back.\n\n"
    "`rootcellar migrate SOURCE TARGET` asks before each step; it is the same as `guide`. Before that, set "
    "ROOTCELLAR_MIGRATION to the URL of the target, for every worker and client, and restart them once. SOURCE and "
    "TARGET can be left out where CELERY_RESULT_BACKEND and ROOTCELLAR_MIGRATION name them.\n\n"
    "The phases: prepared, dual write, switching, target first, target only. Before the last, `rollback` goes back. "
    "A command may be interrupted or killed at any time: run it again, on any machine, and it goes on.",
    epilog="\b\nExamples:\n"
    "  rootcellar migrate redis://localhost/0 postgresql://localhost/results\n"
    "  rootcellar migrate status\n"
    "  rootcellar migrate advance --rate 2000\n",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

RateOption = Annotated[
    float | None,
    typer.Option("--rate", metavar="N", min=0, help="Read at most so many results a second; 0 for no limit"),
]
WithoutOption = Annotated[
    list[str] | None,
    typer.Option(
        "--without",
        metavar="HOST[/PID]",
        help="Go on without what is silent of this host, or without this process. Only if it is gone for good. "
        "May be given several times",
    ),
]
WaitOption = Annotated[
    str | None,
    typer.Option("--wait", metavar="TIME", help="Wait so long for confirmations: 30s, 5m. By default without a limit"),
]
AcceptOption = Annotated[
    bool, typer.Option("--accept-differences", help="Go on although the two stores differ; see `status`")
]
ChordsOption = Annotated[
    bool, typer.Option("--abandon-chords", help="Go on although chords are open: their bodies are never sent")
]


def _examples(*lines: str) -> str:
    return "\b\nExamples:\n" + "".join(f"  rootcellar migrate {line}\n" for line in lines)


@app.command(
    epilog=_examples("guide redis://localhost/0 postgresql://localhost/results", "guide --rate 2000 app:shop.celery")
)
def guide(
    source: SourceArgument = None,
    target: TargetArgument = None,
    rate: RateOption = None,
    without: WithoutOption = None,
    wait: WaitOption = None,
    accept: AcceptOption = False,
    yes: YesOption = False,
) -> None:
    """Make every step of a migration, and ask before each one.

    It shows the plan, and goes on in the phase that was reached before. An answer of no ends it there. With --yes it
    goes on until the phase 'target only'; it never retires the source without a question.

    Exit status 0 if the migration is over, or was ended by an answer; 1 after an error or if the stores differ.
    """
    with both_stores(source, target) as stores:
        _check_plan(*stores)
        pair = _pair(stores)
        screen = Screen()
        coordinator = _coordinator(pair, screen, rate, without, wait, accept)
        with _ended(screen):
            _guide(coordinator, pair, yes, rate)


@app.command(epilog=_examples("plan redis://localhost/0 postgresql://localhost/results", "plan --json"))
def plan(source: SourceArgument = None, target: TargetArgument = None, as_json: JsonOption = False) -> None:
    """Check both stores, and say what a migration would do.

    It looks whether both can be reached and written, whether the target is empty, which processes follow already, and
    what is not moved, such as an archive. It changes nothing. Exit status 1 if the migration is not possible.
    """
    with both_stores(source, target) as (first, second):
        findings = plan_of(first, second)
        if as_json:
            print_json(plan_object(findings, *_urls(first, second)))
        else:
            print_plan(findings, *_urls(first, second))
            _say_whether_possible(findings)
    if _is_refused(findings):
        raise typer.Exit(1)


@app.command(
    epilog=_examples("start redis://localhost/0 postgresql://localhost/results", "start --yes --rate 2000"),
    short_help="Begin: write to both stores, copy what is old, and compare.",
)
def start(
    source: SourceArgument = None,
    target: TargetArgument = None,
    rate: RateOption = None,
    postponed: Annotated[
        bool, typer.Option("--postpone", help="Let no later phase begin before `rootcellar migrate advance`")
    ] = False,
    without: WithoutOption = None,
    wait: WaitOption = None,
    accept: AcceptOption = False,
    yes: YesOption = False,
) -> None:
    """Begin: write every result to both stores, copy what is old, and compare.

    It waits until all processes that follow the migration have confirmed, copies everything that the source has, with
    saved groups and holds, and compares both stores. Readers ask the source, as before. Run it again to go on after an
    interruption.

    Exit status 0 if both stores are equal now, 1 if they differ, after an error or if the answer was no.
    """
    with both_stores(source, target) as stores:
        _check_plan(*stores)
        pair = _pair(stores)
        screen = Screen()
        confirm(yes, "Write every result to both stores from now on?")
        coordinator = _coordinator(pair, screen, rate, without, wait, accept)
        with _ended(screen):
            state = _started(coordinator, rate, "by --postpone" if postponed else None)
        _say_state(state)


@app.command(
    epilog=_examples("status", "status --json redis://localhost/0 postgresql://db/results"),
    short_help="Show the phase, who has not confirmed it, and how far it is.",
)
def status(source: SourceArgument = None, target: TargetArgument = None, as_json: JsonOption = False) -> None:
    """Show the phase, which processes have not confirmed it, how far the pass is, and what differs.

    It may be run on any machine at any time, also while another one coordinates. It changes nothing. Exit status 0 if
    every process has confirmed the phase and nothing differs, 1 otherwise.
    """
    with opened_pair(source, target) as pair:
        found = read_status(pair)
        if as_json:
            print_json({"source": pair.source.url, "target": pair.target.url, **status_object(found)})
        else:
            print_status(found, pair.source.url, pair.target.url)
    verified = None if found.state is None else found.state.verified
    if found.silent or found.problem or (verified is not None and not (verified.is_clean or verified.is_accepted)):
        raise typer.Exit(1)


@app.command(epilog=_examples("advance", "advance --yes --without web2/4711", "advance --yes --accept-differences"))
def advance(
    source: SourceArgument = None,
    target: TargetArgument = None,
    rate: RateOption = None,
    without: WithoutOption = None,
    wait: WaitOption = None,
    accept: AcceptOption = False,
    yes: YesOption = False,
) -> None:
    """Make the next step towards the target.

    It waits until all processes have confirmed the phase, reads everything once, compares both stores, and lets the
    next phase begin. After 'target only' there is no way back. It ends a postponement. If it is run again after an
    interruption, it finishes the step that was begun, and makes no other.

    Exit status 0 if all processes have confirmed the next phase, 1 if the stores differ, after an error or if the
    answer was no.
    """
    with opened_pair(source, target) as pair:
        screen = Screen()
        coordinator = _coordinator(pair, screen, rate, without, wait, accept)
        state = coordinator.book.read()
        if Phase.DUAL <= state.phase < Phase.TARGET_ONLY and not state.is_step_unfinished:
            _say_findings(pair, state)
            confirm(yes, _question(state.phase))
        with _ended(screen):
            _set_rate(coordinator.book, rate)
            state = coordinator.advance(state.phase)
        _say_state(state)


@app.command("postpone", epilog=_examples("postpone", "postpone --reason 'not before the release'"))
def postpone_command(
    source: SourceArgument = None,
    target: TargetArgument = None,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for `status`")] = "",
) -> None:
    """Let no other phase begin before `rootcellar migrate advance`.

    A command that copies or compares at this moment goes on with that, and ends before the next phase.
    """
    with opened_pair(source, target) as pair:
        book = StateBook(pair)
        state = postpone(book, reason.strip() or f"by {book.by}")
    say(f"No other phase begins before `rootcellar migrate advance`. The phase is '{NAMES[state.phase]}'.")


@app.command(
    "rate", epilog=_examples("rate 500", "rate 0"), short_help="Change how many results a second a pass reads."
)
def rate_command(
    rate: Annotated[float, typer.Argument(metavar="N", min=0, help="Results a second; 0 for no limit")],
    source: SourceArgument = None,
    target: TargetArgument = None,
) -> None:
    """Change how many results a second are read, also while a pass runs.

    A command that copies or compares at this moment follows within a few seconds, on whatever machine it runs.
    """
    with opened_pair(source, target) as pair:
        state = set_rate(StateBook(pair), rate or None)
    limit = "without a limit" if state.rate is None else f"at most {state.rate:g} results a second"
    say(f"Passes read {limit}.")


@app.command(epilog=_examples("rollback", "rollback --to 'dual write' --yes"), short_help="Go back to the source.")
def rollback(
    source: SourceArgument = None,
    target: TargetArgument = None,
    to: Annotated[str, typer.Option("--to", metavar="PHASE", help="Where to stop, such as 'dual write'")] = "prepared",
    rate: RateOption = None,
    without: WithoutOption = None,
    wait: WaitOption = None,
    accept: AcceptOption = False,
    yes: YesOption = False,
) -> None:
    """Go back to the source, phase by phase, without losing a result.

    What only the target has is copied into the source. From 'target only' there is no way back. After the phase
    'prepared', `start` begins again, or `retire` ends the migration.

    Exit status 0 if all processes have confirmed the phase, 1 if the stores differ, after an error or if the answer was
    no.
    """
    phase = _phase_named(to)
    with opened_pair(source, target) as pair:
        screen = Screen()
        coordinator = _coordinator(pair, screen, rate, without, wait, accept)
        state = coordinator.book.read()
        if state.phase < Phase.TARGET_ONLY:
            confirm(yes, f"The phase is '{NAMES[state.phase]}'. Go back to '{NAMES[phase]}'?")
        with _ended(screen):
            _set_rate(coordinator.book, rate)
            state = coordinator.rollback(phase, state.phase)
        _say_state(state)


@app.command(epilog=_examples("retire", "retire --yes --abandon-chords"))
def retire(
    source: SourceArgument = None,
    target: TargetArgument = None,
    without: WithoutOption = None,
    wait: WaitOption = None,
    accept: AcceptOption = False,
    chords: ChordsOption = False,
    yes: YesOption = False,
) -> None:
    """End the migration: no process calls the source any more.

    Only in the phase 'target only'. It refuses while chords are open in the source, and says how many. It reads the
    source once more, and removes what the migration has left in both stores. The results in the source stay: delete
    them when you like. After a rollback it ends the migration on the side of the source.

    It also refuses if a process without ROOTCELLAR_MIGRATION has stored results in the source, names its worker, and
    copies these results to the target.

    Exit status 0 if it is over, 1 after an error, if it is refused or if the answer was no.
    """
    with opened_pair(source, target) as pair:
        screen = Screen()
        coordinator = _coordinator(pair, screen, None, without, wait, accept, chords)
        state = coordinator.book.read()
        if state.phase in (Phase.PREPARED, Phase.TARGET_ONLY):
            left = pair.source if state.phase is Phase.TARGET_ONLY else pair.target
            say_beside(f"The {left.name} is {left.where}.")
            confirm(yes, f"End the migration, and leave the {left.name}?")
        with _ended(screen):
            state = coordinator.retire(state.phase)
        _say_retired(pair, state)


# -- the steps of the guide


def _guide(coordinator: Coordinator, pair: Pair, yes: bool, rate: float | None) -> None:
    """Ask before each step, and make it."""
    state = coordinator.book.find()
    if state is None or state.phase in (Phase.PREPARED, Phase.RETIRED):
        say_beside(_processes_text(pair))
        _ask(yes, "Write every result to both stores from now on?", Phase.PREPARED)
        state = _started(coordinator, rate, None)
    elif state.phase is Phase.DUAL and state.finished_pass is None and state.direction is Direction.FORTH:
        state = _started(coordinator, rate, None)
    else:
        _set_rate(coordinator.book, rate)
        state = coordinator.finish_step() if state.is_step_unfinished else state
    while state.phase < Phase.TARGET_ONLY:
        _say_real_reads(pair, state)
        _ask(yes, _question(state.phase), state.phase)
        state = coordinator.advance(state.phase)
    if yes:
        _say_state(state)
        return
    say_beside(f"The source {pair.source.where} is not needed any more.")
    _ask(False, "End the migration, and leave the source?", state.phase)
    _say_retired(pair, coordinator.retire(state.phase))


def _ask(yes: bool, question: str, phase: Phase) -> None:
    """Ask; end with status 0 if the answer is no."""
    if yes:
        return
    try:
        confirm(False, question)
    except typer.Exit:
        say(f"The phase stays '{NAMES[phase]}'. Run this again to go on, or `rootcellar migrate rollback`.")
        raise typer.Exit(0) from None


_QUESTIONS: Mapping[Phase, str] = {
    Phase.DUAL: "Let readers ask the target first, and then the source?",
    Phase.SWITCHING: "Let results be stored in the target first, then in the source?",
    Phase.TARGET_FIRST: "Use only the target from now on? Then there is NO WAY BACK.",
}


def _question(phase: Phase) -> str:
    return _QUESTIONS[phase]


def _processes_text(pair: Pair) -> str:
    processes = read_status(pair).processes
    if not processes:
        return "No process follows the migration."
    return f"{processes_on_hosts(list(processes))} the migration; they must be all."


def _say_findings(pair: Pair, state: State) -> None:
    """Say what is known before a step: what the comparison of this phase found, and the sample of real reads."""
    if state.verified is not None and state.verified.epoch == state.epoch:
        say_beside(f"Compared: {verified_line(state.verified)}.")
    _say_real_reads(pair, state)


def _say_real_reads(pair: Pair, state: State) -> None:
    if state.phase is Phase.DUAL:
        say_beside(f"Real reads: {sampled_line(read_status(pair).counters)}.")


# -- what the commands share


def _coordinator(
    pair: Pair,
    screen: Screen,
    rate: float | None,
    without: list[str] | None,
    wait: str | None,
    accept: bool,
    chords: bool = False,
) -> Coordinator:
    options = Options(
        without=tuple(without or ()),
        patience=None if wait is None else _seconds(wait),
        accept_differences=accept,
        abandon_chords=chords,
    )
    coordinator = Coordinator(pair, options, watching=screen)
    owner = living_owner(pair.target.values)
    if owner is None:
        return coordinator
    if rate is None:
        raise busy(owner, pair.target.where)
    _set_rate(coordinator.book, rate)
    say(f"{visible(owner.name)} coordinates the migration at this moment, and follows the new rate.")
    raise typer.Exit(0)


def _started(coordinator: Coordinator, rate: float | None, postponed: str | None) -> State:
    coordinator.prepare()
    _set_rate(coordinator.book, rate)
    return coordinator.start(postponed=postponed)


def _set_rate(book: StateBook, rate: float | None) -> None:
    if rate is not None:
        set_rate(book, rate or None)


def _pair(stores: tuple[Store, Store]) -> Pair:
    return pair_of(*stores)


def _check_plan(source: Store, target: Store) -> None:
    """Print the plan.

    Raises:
        typer.Exit: the migration is not possible.
    """
    findings = plan_of(source, target)
    print_plan(findings, *_urls(source, target))
    if _is_refused(findings):
        _say_whether_possible(findings)
        raise typer.Exit(1)


def _urls(source: Store, target: Store) -> tuple[str, str]:
    return redact(source.url.removeprefix("rootcellar+")), redact(target.url.removeprefix("rootcellar+"))


def _is_refused(findings: list[Finding]) -> bool:
    return any(each.level is Level.REFUSED for each in findings)


def _say_whether_possible(findings: list[Finding]) -> None:
    if _is_refused(findings):
        say("The migration is not possible: see what is refused.")
    else:
        say("The migration is possible.")


def _seconds(text: str) -> float:
    try:
        return parse_span(text).total_seconds()
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--wait") from None


def _phase_named(text: str) -> Phase:
    """Return the phase to go back to: by its name, or by its number."""
    back = (Phase.PREPARED, Phase.DUAL, Phase.SWITCHING)
    for phase in back:
        if text.strip().lower() in (NAMES[phase], str(int(phase))):
            return phase
    raise WrongUse(f"--to: {text!r} is no phase to go back to: use one of {', '.join(NAMES[each] for each in back)}")


@contextmanager
def _ended(screen: Screen) -> Iterator[None]:
    """Remove the line of progress, and say how to go on after an interruption."""
    try:
        yield
    except SystemExit:
        screen.end()
        say_beside("Interrupted. Run it again: it goes on where it was.")
        raise
    finally:
        screen.end()


def _say_state(state: State) -> None:
    say(f"The phase is '{NAMES[state.phase]}'. Next: {next_step(state.phase)}.")


def _say_retired(pair: Pair, state: State) -> None:
    if state.phase is Phase.PREPARED:
        say(f"The migration is over. Remove {_VARIABLE} from every worker and client, and restart them.")
        say(f"The results in the target {pair.target.where} stay: delete them when you like.")
        return
    say(f"The migration is over: only the target {pair.target.where} is used.")
    say(f"Set CELERY_RESULT_BACKEND to it for every worker and client, remove {_VARIABLE}, and restart them.")
    say(f"No process calls the source {pair.source.where} any more. Its results stay: delete them when you like.")
