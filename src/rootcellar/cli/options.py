"""Options that several commands share. A decorator or an annotated type adds each of them in one line."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Concatenate, ParamSpec, TypeVar

import typer

_Rest = ParamSpec("_Rest")
_Returned = TypeVar("_Returned")

BackendOption = Annotated[
    str | None,
    typer.Option(
        "--backend", "-b", metavar="URL", help="The result backend, such as postgresql://… or sqlite:///results.sqlite3"
    ),
]
AppOption = Annotated[
    str | None, typer.Option("--app", "-A", metavar="MODULE", help="Your Celery app, named as for `celery -A`")
]
TaskTableOption = Annotated[
    str | None, typer.Option("--task-table", metavar="NAME", help="The task table, if not celery_taskmeta")
]
GroupTableOption = Annotated[
    str | None, typer.Option("--group-table", metavar="NAME", help="The group table, if not celery_groupmeta")
]
SchemaOption = Annotated[
    str | None, typer.Option("--schema", metavar="NAME", help="The database schema that holds the tables")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed without a terminal")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and change nothing")]
ArchivedOption = Annotated[
    bool,
    typer.Option("--archive", help="The archived tasks, not those in the store; ROOTCELLAR_ARCHIVE names the archive"),
]
FilterArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="FILTER",
        help="Which tasks, such as state:failed since:24h; several words form one filter. "
        "Put -- before a filter that begins with a minus",
        show_default=False,
    ),
]
EnvFileOption = Annotated[
    str, typer.Option("--env-file", metavar="FILE", help="Read this file of NAME=value instead of .env")
]


def filter_text(words: Sequence[str] | None) -> str:
    """Return the text of a filter that was given as one word or as several."""
    return " ".join(words or ())


@dataclass(frozen=True, slots=True)
class Choice:
    """The options that choose the store of a command."""

    backend: BackendOption
    app: AppOption
    task_table: TaskTableOption
    group_table: GroupTableOption
    schema: SchemaOption


def store_options(command: Callable[Concatenate[Choice, _Rest], _Returned]) -> Callable[_Rest, _Returned]:
    """Give a command the options of :class:`Choice`, and pass their values to it as its first argument.

    In the help, ``--backend`` and ``--app`` stand before the command's own options, and the others after them.
    """
    shared = inspect.signature(Choice, eval_str=True).parameters

    @functools.wraps(command)
    def with_choice(*args: _Rest.args, **kwargs: _Rest.kwargs) -> _Returned:
        choice = Choice(**{name: kwargs.pop(name) for name in shared})  # type: ignore[arg-type]
        return command(choice, *args, **kwargs)

    _, *own = inspect.signature(command, eval_str=True).parameters.values()
    before, after = _optional(shared["backend"], shared["app"]), _optional(*list(shared.values())[2:])
    # typer reads the options from the signature and the annotations, and calls the command with keywords only
    parameters = [*before, *(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own), *after]
    with_choice.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_choice.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_choice


def _optional(*parameters: inspect.Parameter) -> list[inspect.Parameter]:
    return [each.replace(kind=inspect.Parameter.KEYWORD_ONLY, default=None) for each in parameters]
