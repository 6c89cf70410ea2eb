"""``rootcellar recommend``: recommends a backend and a broker."""

from __future__ import annotations

import sys
from enum import Enum
from typing import Annotated

import typer

from rootcellar.cli.asking import ask_needs, count_of
from rootcellar.cli.options import JsonOption
from rootcellar.cli.output import console, print_beside, print_json, say
from rootcellar.onboarding.recommend import (
    Keep,
    MayLose,
    Needs,
    Readers,
    Recommendation,
    RedisForm,
    Setup,
    recommend,
)
from rootcellar.onboarding.recommend import figures as measured_figures
from rootcellar.onboarding.recommend.needs import MEANINGS, Systems

EXAMPLES = """\b
Examples:
  rootcellar recommend
  rootcellar recommend --tasks-per-day 50000 --keep months --readers people
  rootcellar recommend --keep days --runs redis --runs postgres --json
"""


def _meanings(answers: type[Enum]) -> str:
    return "; ".join(f"{answer.value}: {MEANINGS[answer.value]}" for answer in answers)


def _count(text: str) -> int:
    try:
        return count_of(text)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from None


TasksOption = Annotated[
    int | None,
    typer.Option("--tasks-per-day", parser=_count, metavar="N", help="How many tasks run in a day, such as 10k"),
]
KeepOption = Annotated[
    Keep | None, typer.Option("--keep", help=f"How long a result matters ({_meanings(Keep)})", case_sensitive=False)
]
ReadersOption = Annotated[
    Readers | None, typer.Option("--readers", help=f"Who reads results ({_meanings(Readers)})", case_sensitive=False)
]
RunsOption = Annotated[
    list[Systems] | None,
    typer.Option(
        "--runs",
        metavar="SYSTEM",
        help=f"What runs already; may be repeated ({_meanings(Systems)})",
        case_sensitive=False,
    ),
]
MayLoseOption = Annotated[
    MayLose | None,
    typer.Option("--may-lose", help=f"What may be lost when a machine dies ({_meanings(MayLose)})"),
]
RoutingOption = Annotated[bool, typer.Option("--routing", help="Tasks are routed by patterns (topic exchanges)")]


def recommend_command(
    tasks_per_day: TasksOption = None,
    keep: KeepOption = None,
    readers: ReadersOption = None,
    runs: RunsOption = None,
    may_lose: MayLoseOption = None,
    routing: RoutingOption = False,
    as_json: JsonOption = False,
) -> None:
    """Recommend a result backend and a broker, with the reasons and the variables to set.

    Asks a few questions on a terminal. With any of the options, or without a terminal, it asks nothing: an option that
    is not given then has no influence.
    """
    needs = needs_of(tasks_per_day, keep, readers, runs, may_lose, routing)
    if needs == Needs() and not as_json and sys.stdin.isatty():
        needs = ask_needs()
        say("")
    found = recommend(needs)
    if as_json:
        print_json(found.as_json())
    else:
        _print(found)


def needs_of(
    tasks_per_day: int | None,
    keep: Keep | None,
    readers: Readers | None,
    runs: list[Systems] | None,
    may_lose: MayLose | None,
    routing: bool = False,
) -> Needs:
    """Return the needs that the options of a command describe."""
    return Needs(tasks_per_day, keep, readers, frozenset(each.value for each in runs or ()), may_lose, routing)


def _print(found: Recommendation) -> None:
    out = console()
    out.print(f"Result backend: {found.backend}", style="bold", soft_wrap=True)
    out.print(f"Broker:         {found.broker}", style="bold", soft_wrap=True)
    named = found.architecture
    if named is not None:
        low, high = named.cost
        say(f"{named.name}: {named.use}; persistence: {named.persistence}; about ${low}-{high} a month (an estimate).")
    say("\nWhy:")
    for chosen, reason in ((found.backend, found.backend_reason), (found.broker, found.broker_reason)):
        print_beside("- ", f"{chosen}: {reason.text} {reason.evidence}".rstrip(), out)
    if found.load:
        print_beside("- ", found.load, out)
    print_beside("  ", f"({measured_figures.measured()})", out)
    say("\nSet, in the environment or in .env:")
    for each in found.variables:
        out.print(f"  {each.name}={each.value}", soft_wrap=True)
    extras = ",".join(found.setup.extras)
    packages = [f"'rootcellar[{extras}]'" if extras else "rootcellar", *found.setup.packages]
    say(f"\nInstall: pip install {' '.join(packages)}")
    if found.cautions:
        say("\nNote:")
        for caution in found.cautions:
            print_beside("- ", caution, out)
    say("\nTo write a project with this set-up:")
    out.print(f"  rootcellar init DIR {options_of(found.setup)}", soft_wrap=True)


def options_of(setup: Setup) -> str:
    """Return the options of ``rootcellar init`` that choose a set-up."""
    words = ["--broker", setup.broker, "--backend", setup.backend]
    if setup.redis is not RedisForm.SINGLE:
        words += ["--redis", setup.redis.value]
    flags = {
        "--pgbouncer": setup.pgbouncer,
        "--tls": setup.tls,
        "--extended": setup.extended,
        "--acks-late": setup.acks_late,
    }
    words += [name for name, is_given in flags.items() if is_given]
    if setup.expires:
        words += ["--expires", setup.expires]
    return " ".join(words)
