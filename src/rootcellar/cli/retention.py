"""``rootcellar retention``: shows how long results are kept and why, and applies changed rules to stored results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rootcellar.cli.confirmation import confirm
from rootcellar.cli.options import AppOption, Choice, DryRunOption, JsonOption, YesOption, store_options
from rootcellar.cli.output import WrongUse, console, number_of_tasks, print_beside, print_json, say, say_beside, visible
from rootcellar.cli.progress import Progress
from rootcellar.cli.rules_on_record import FORGET_EXAMPLE, RECORDED_EXAMPLE, forget_rules, recorded
from rootcellar.cli.stores import existing_results, load_app, tasks_of
from rootcellar.cli.times import full_moment
from rootcellar.errors import ConfigurationError
from rootcellar.records import ENDS
from rootcellar.retention.chain import Link, chain_of
from rootcellar.retention.durations import show_duration
from rootcellar.retention.policy import (
    FAILURES,
    LEVELS,
    MIN_UNFINISHED_SECONDS,
    NOT_GIVEN,
    RESULTS,
    TASK,
    Decision,
    Facts,
    Given,
    Retention,
    by_task,
    read_retention,
)
from rootcellar.retention.rules import ARCHIVE, Rule, shadowed
from rootcellar.support.sizes import read_size

if TYPE_CHECKING:
    from rootcellar.history.applying import Applied

app = typer.Typer(
    help="Show how long results are kept, and apply changed rules.",
    epilog="\b\nExample:\n  rootcellar retention explain reports.daily --state FAILURE -A shop.celery\n",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

_SHOW_EXAMPLE = """\b
Examples:
  rootcellar retention show
  rootcellar retention show -A shop.celery --json
"""
_EXPLAIN_EXAMPLE = """\b
Examples:
  rootcellar retention explain reports.daily
  rootcellar retention explain reports.daily --state FAILURE -A shop.celery
  rootcellar retention explain reports.daily --queue slow --size 2MB --json
"""
_APPLY_EXAMPLE = """\b
Examples:
  rootcellar retention apply --dry-run -A shop.celery
  rootcellar retention apply --yes -A shop.celery
"""


#: the states that explain knows, in the order of a task's life
_STATES = ("SENT", *("PENDING", "RECEIVED", "STARTED", "RETRY"), *("SUCCESS", "FAILURE", "REVOKED"))
#: the width of the names of the places
_WIDEST_LEVEL = max(map(len, LEVELS))


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of an application's retention.

    Attributes:
        retention: the rules and settings.
        task_named: returns a task of the app by its name; ``None`` if no app is given.
        tasks: the app's own tasks by their names.
        has_settings: whether Celery's settings are known, too, and not only the rules of the environment.
        url: the URL of the store; empty if none is known.
    """

    retention: Retention
    task_named: Callable[[str], Any] | None
    tasks: Mapping[str, Any]
    has_settings: bool
    url: str = ""


@app.command(epilog=_SHOW_EXAMPLE, short_help="Show all rules and settings.")
def show(app: AppOption = None, as_json: JsonOption = False) -> None:
    """Show all rules, the settings, and with --app the tasks that say how long their results are kept.

    The first rule that matches counts. A rule that never counts, because an earlier one matches all that it matches, is
    named. Exit status 1 if a rule or a task's time is wrong.
    """
    known = _known(app)
    said, wrong = _said_by_tasks(known.tasks)
    if as_json:
        print_json({**_settings_as_json(known), "tasks": said, "wrong_tasks": wrong})
    else:
        _print_all(known, said)
        for problem in wrong:
            say_beside(problem)
    if wrong:
        raise typer.Exit(1)


@app.command(epilog=_EXPLAIN_EXAMPLE, short_help="Show how long a task's results are kept, and why.")
def explain(
    task: Annotated[str, typer.Argument(metavar="TASK", help="The name of a task")],
    app: AppOption = None,
    state: Annotated[str, typer.Option("--state", metavar="STATE", help="The state of the task")] = "SUCCESS",
    queue: Annotated[
        str | None, typer.Option("--queue", metavar="NAME", help="The queue of the task", show_default=False)
    ] = None,
    size: Annotated[str, typer.Option("--size", metavar="BYTES", help="The size of the result, such as 2MB")] = "0",
    as_json: JsonOption = False,
) -> None:
    """Show how long a task's results are kept, and why: every place that can say so, the nearest first.

    The first place that says something counts. What a call or a running task says is not known here. Give --app, so
    that the task's own time is known. A state that a task has set itself counts like STARTED.

    Exit status 0 if it was said, 1 if a rule or a task's time is wrong, 2 if the state or the size is.
    """
    known = _known(app)
    found = known.task_named(task) if known.task_named is not None else None
    said, wrong = _said_by(found)
    facts = Facts(name=task, state=_read_state(state), queue=queue, size=_read_bytes(size), by_task=said)
    links = chain_of(known.retention, facts)
    decision = known.retention.decide(facts)
    archived = _archived(known.retention, facts)
    is_possible = archived is None or not known.url or _can_archive(known.url)
    is_decided = known.has_settings or decision.level not in (FAILURES, RESULTS)
    if as_json:
        print_json(
            {
                "task": task,
                "state": facts.state,
                "queue": queue,
                "size": facts.size,
                "seconds": decision.seconds if is_decided else None,
                "level": decision.level if is_decided else None,
                "rule": None if decision.rule is None else decision.rule.index + 1,
                "archived_by_rule": None if archived is None or not is_possible else archived.index + 1,
                "wrong_time": wrong,
                "chain": [_link_as_json(link, known, is_task_known=found is not None) for link in links],
            }
        )
    else:
        _print_chain(facts, links, known, is_known=found is not None)
        _print_decision(decision, archived, is_decided=is_decided, is_possible=is_possible)
    if known.task_named is not None and found is None and (near := _near(task, known.tasks)):
        say_beside(f"The app has no task {visible(task)}. Did you mean {visible(near)}?")
    if wrong is not None:
        say_beside(f"The task's own time is wrong, so workers ignore it: {wrong}")
        raise typer.Exit(1)


@app.command(epilog=_APPLY_EXAMPLE, short_help="Apply changed rules to stored results.")
@store_options
def apply(
    choice: Choice,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    with_for_ever: Annotated[
        bool,
        typer.Option("--with-for-ever", help="Also change results that are kept for ever"),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Apply changed rules to results that are stored already.

    New results follow changed rules as soon as workers have been restarted. Stored ones keep the time that was set when
    they were stored, until this command sets it again, counted from the end of the task. First it counts what would
    change, and asks.

    These stay as they are: a result whose call or running task said how long it is kept; without --app, one whose task
    said it; and one that is kept for ever, because the store does not show whether its owner said so or a rule. With
    --with-for-ever, rules also shorten those. Groups, and tasks that have not ended, are not changed.

    A task that a worker stores meanwhile is not changed. You can interrupt it at any time; run it again, and it goes
    on. It works on PostgreSQL, MySQL and SQLite, and on their part of a hybrid. Redis and MongoDB delete each result at
    the time that was set when it was stored.

    Exit status 0 if it was done, or there was nothing to change, 1 after an error or if the answer was no, 2 if there
    is neither --yes nor a terminal.
    """
    # imported late: the other commands do not need it
    from rootcellar.history.applying import Applying

    known = _known_of(choice)
    if not known.has_settings and not known.retention.rules:
        raise WrongUse("no rules are known: give --app, or set ROOTCELLAR_RETENTION")
    with existing_results(choice) as results:
        applying = Applying(
            results.store,
            known.retention,
            tasks=known.task_named,
            knows_settings=known.has_settings,
            with_for_ever=with_for_ever,
        )
        if dry_run or not yes:
            with _interrupted("Nothing was changed."):
                would = applying.run(dry_run=True, on_progress=Progress("results looked at").add)
            if not as_json or not dry_run:
                _say_applied(would, results.store.where, is_preview=True)
            if dry_run:
                if as_json:
                    print_json({**_applied_as_json(would), "dry_run": True})
                return
            if not would.changed:
                return
            confirm(yes, f"Change when {number_of_tasks(would.changed)} in {results.store.where} expire?")
        with _interrupted("Interrupted. Run it again to go on."):
            done = applying.run(on_progress=Progress("results looked at").add)
        if as_json:
            print_json({**_applied_as_json(done), "dry_run": False})
        else:
            _say_applied(done, results.store.where, is_preview=False)


app.command(epilog=RECORDED_EXAMPLE, short_help="List the rules that keep results from the cleanup.")(recorded)
app.command("forget-rules", epilog=FORGET_EXAMPLE, short_help="Remove rules from this list.")(forget_rules)


@contextmanager
def _interrupted(message: str) -> Iterator[None]:
    try:
        yield
    except SystemExit:
        print(message, file=sys.stderr)
        raise


# -- what is known


def _known_of(choice: Choice) -> Known:
    """Return what is known for the store of a command."""
    if choice.app is None and choice.backend is not None:
        return Known(_of_environment(), None, {}, has_settings=False)
    return _known(choice.app)


def _known(app: str | None) -> Known:
    """Return what an app, or else the environment and ``.env``, say.

    Raises:
        ConfigurationError: a rule or a setting is wrong.
    """
    if app is not None:
        loaded = load_app(app)
        tasks = tasks_of(app, loaded)
        own = {name: tasks[name] for name in sorted(tasks) if not name.startswith("celery.")}
        url = str(loaded.conf.result_backend or "")
        return Known(read_retention(loaded.conf), tasks.get, own, has_settings=True, url=url)
    # imported late: importing takes a moment, and --app does not need it
    import rootcellar
    from rootcellar.configuration import names_backend
    from rootcellar.opening import store_of_variable

    named = store_of_variable()
    if named is None and names_backend():
        conf = rootcellar.settings(broker=False)
        return Known(read_retention(conf), None, {}, has_settings=True, url=str(conf["result_backend"]))
    return Known(_of_environment(), None, {}, has_settings=False, url=named or "")


def _of_environment() -> Retention:
    """Return the rules of the environment and ``.env``, for a store that is named by a URL."""
    from rootcellar.configuration import payload_settings

    return read_retention(payload_settings())


def _said_by(task: Any) -> tuple[Given, str | None]:
    """Return what a task says, and what is wrong with it. ``None`` is an unknown task."""
    if task is None:
        return NOT_GIVEN, None
    try:
        return by_task(task), None
    except ConfigurationError as exc:
        return NOT_GIVEN, str(exc)


def _read_state(given: str) -> str:
    """Return a state of Celery.

    Raises:
        WrongUse: it is none.
    """
    state = given.strip().upper()
    state = {"SUCCEEDED": "SUCCESS", "FAILED": "FAILURE"}.get(state, state)
    if state in _STATES:
        return state
    near = _near(state, _STATES)
    advice = f"did you mean {near}? " if near else ""
    raise WrongUse(
        f"--state: {visible(given)} is not a state: {advice}write {', '.join(_STATES[:-1])} or {_STATES[-1]}; a state "
        "that a task has set itself counts like STARTED"
    )


def _read_bytes(given: str) -> int:
    try:
        return read_size(given, "--size") or 0
    except ConfigurationError as exc:
        raise WrongUse(f"--size: {visible(exc.what)}: {exc.remedy}") from exc


def _near(word: str, known: Iterable[str]) -> str | None:
    """Return what was meant, if it is similar."""
    # imported late: only a wrong word needs it
    import difflib

    return next(iter(difflib.get_close_matches(word, list(known), 1)), None)


def _said_by_tasks(tasks: Mapping[str, Any]) -> tuple[dict[str, float | None], list[str]]:
    """Return what the tasks of an app say, in seconds, and what is wrong."""
    said: dict[str, float | None] = {}
    wrong: list[str] = []
    for name, task in tasks.items():
        try:
            seconds = by_task(task)
        except ConfigurationError as exc:
            wrong.append(str(exc))
            continue
        if seconds is not NOT_GIVEN:
            said[name] = seconds
    return said, wrong


def _can_archive(url: str) -> bool:
    # imported late: importing takes a moment
    from rootcellar.opening import can_archive

    return can_archive(url)


def _archived(retention: Retention, facts: Facts) -> Rule | None:
    """Return the rule that says that a result is archived when it expires."""
    rule = retention.rule_of(facts) if facts.state in ENDS else None
    return rule if rule is not None and rule.then == ARCHIVE else None


# -- output


def _print_all(known: Known, said: Mapping[str, float | None]) -> None:
    out, retention = console(), known.retention
    say("The nearest place that says something counts:")
    say("  1. the call: headers=rootcellar.expires(…), or the running task: rootcellar.keep(self, …)")
    say("  2. the task: result_expires")
    for name, seconds in said.items():
        print_beside("       ", f"{visible(name)}: {_kept(seconds).lower()}", out)
    say("  3. the first rule that matches" + ("" if retention.rules else ": there are none"))
    for rule in retention.rules:
        print_beside(f"       {rule.index + 1}. ", visible(str(rule)), out, style="")
    for number, level in enumerate((FAILURES, RESULTS), start=4):
        say(f"  {number}. {level}: {_setting(known, level)}")
    for rule, earlier in shadowed(retention.rules):
        say_beside(
            f"Rule {rule.index + 1} never counts: rule {earlier.index + 1} matches everything that it matches. "
            "Put it before that one."
        )


def _setting(known: Known, level: str) -> str:
    """Return what a setting says, in English."""
    if not known.has_settings:
        return "not known here; give --app"
    seconds = known.retention.failures if level == FAILURES else known.retention.results
    if level == FAILURES and seconds is None:
        return "not set"
    of_what = "FAILURE and REVOKED are" if level == FAILURES else "every other result is"
    return f"{of_what} {_kept(seconds).lower()}"


def _print_chain(facts: Facts, links: Sequence[Link], known: Known, *, is_known: bool) -> None:
    of_queue = f" in queue {facts.queue}" if facts.queue else ""
    of_size = f", with a result of {facts.size:,} bytes" if facts.size else ""
    say(f"{visible(str(facts.name))} in state {visible(facts.state)}{visible(of_queue)}{of_size}:")
    out = console()
    for link in links:
        text = link.text
        if link.level == TASK and not is_known:
            text = "not known here; give --app" if known.task_named is None else "the app has no task of this name"
        is_unknown = link.level in (FAILURES, RESULTS) and not known.has_settings
        text = "not known here; give --app" if is_unknown else text
        mark = ">" if link.counts and not is_unknown else " "
        print_beside(f" {mark} {link.name:<{_WIDEST_LEVEL}}  ", visible(text), out, style="")
    if any(link.counts for link in links) and facts.state not in ENDS:
        say(
            "\nA task that has not ended is kept for its longest time, and for at least "
            f"{show_duration(MIN_UNFINISHED_SECONDS)} if a task or a rule says how long."
        )


def _print_decision(decision: Decision, archived: Rule | None, *, is_decided: bool, is_possible: bool) -> None:
    if not is_decided:
        say("\nA setting of Celery says how long: give --app, or set CELERY_RESULT_EXPIRES.")
        return
    then = "archived" if archived is not None and is_possible else "deleted"
    say(f"\n{_kept(decision.seconds)}{f', then {then}' if decision.seconds else ''}.")
    if archived is not None and not is_possible:
        say(f"Rule {archived.index + 1} says that it is archived, but this store cannot archive.")
    elif archived is not None and decision.seconds and decision.rule is not archived:
        say(f"Rule {archived.index + 1} says that it is archived; the time is said by a nearer place.")


def _kept(seconds: float | None) -> str:
    return f"Kept for {show_duration(seconds)}" if seconds else "Kept for ever"


def _say_applied(applied: Applied, where: str, *, is_preview: bool) -> None:
    would = "would be" if is_preview else "are"
    say(
        f"{number_of_tasks(applied.seen)} that ended, in {where}: {applied.longer:,} {would} kept longer, "
        f"{applied.shorter:,} shorter."
    )
    if applied.due:
        has = "has" if applied.due == 1 else "have"
        say(f"Of these, {number_of_tasks(applied.due)} {has} expired by the new time: the next cleanup deletes them.")
    for number, why in (
        (applied.by_owner, "the call or the running task said how long they are kept"),
        (applied.by_task, "their task said how long they are kept, and --app does not say what it says now"),
        (applied.for_ever, "they are kept for ever; --with-for-ever changes them"),
        (applied.stored_again, "a worker stored them meanwhile"),
    ):
        if number:
            say(f"{number_of_tasks(number)} not changed: {why}.")
    for change in applied.examples if is_preview else ():
        record = change.record
        say(f"  {visible(record.task_id)}  {visible(record.name or '-')}  {visible(record.state)}")
        say(f"    {_moment(record.expires_at)} -> {_moment(change.expires_at)}")


def _moment(moment: datetime | None) -> str:
    return full_moment(moment) or "for ever"


def _settings_as_json(known: Known) -> dict[str, Any]:
    retention = known.retention
    hidden = {rule.index: earlier.index + 1 for rule, earlier in shadowed(retention.rules)}
    return {
        "rules": [{**_rule_as_json(rule), "never_counts_after": hidden.get(rule.index)} for rule in retention.rules],
        "result_failure_expires": retention.failures if known.has_settings else None,
        "result_expires": (retention.results or None) if known.has_settings else None,
        "settings_known": known.has_settings,
    }


def _rule_as_json(rule: Rule) -> dict[str, Any]:
    return {
        "rule": rule.index + 1,
        "task": list(rule.tasks),
        "state": list(rule.states),
        "queue": list(rule.queues),
        "larger_than": rule.larger_than,
        "keep": rule.keep,
        "then": rule.then,
        "archive_for": rule.archive_for,
        "sentence": str(rule),
    }


def _link_as_json(link: Link, known: Known, *, is_task_known: bool) -> dict[str, Any]:
    is_unknown = not is_task_known if link.level == TASK else not known.has_settings
    if link.level in (TASK, FAILURES, RESULTS) and is_unknown:
        return {"level": link.level, "rule": None, "counts": False, "says": None, "seconds": None}
    rule = None if link.rule is None else link.rule.index + 1
    return {"level": link.level, "rule": rule, "counts": link.counts, "says": link.text, "seconds": link.seconds}


def _applied_as_json(applied: Applied) -> dict[str, Any]:
    names = ("seen", "longer", "shorter", "due", "by_owner", "by_task", "for_ever", "stored_again", "changed")
    return {
        **{name: getattr(applied, name) for name in names},
        "examples": [
            {
                "task_id": change.record.task_id,
                "task": change.record.name,
                "state": change.record.state,
                "expires_at": full_moment(change.record.expires_at),
                "new_expires_at": full_moment(change.expires_at),
            }
            for change in applied.examples
        ],
    }
