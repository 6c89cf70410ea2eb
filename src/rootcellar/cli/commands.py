"""The list of commands. The module of a command is imported only when the command is used, so that help is fast."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup


@dataclass(frozen=True, slots=True)
class Entry:
    """A command in the list. Its module has the examples for its help: ``EXAMPLES``.

    Attributes:
        name: how it is called.
        place: its module in :mod:`rootcellar.cli`, and its function there; a :class:`typer.Typer` for a group.
        summary: its line in the help.
    """

    name: str
    place: str
    summary: str


COMMANDS = (
    Entry("demo", "demo:demo", "Run a small shop on a real Celery worker."),
    Entry("check", "check:check", "Check a server, and print what to change."),
    Entry("explain", "explain:explain", "Explain an error, or a finding of `rootcellar check`."),
    Entry("recommend", "recommend:recommend_command", "Recommend a result backend and a broker."),
    Entry("init", "init:init", "Write a small project that works."),
    Entry("history", "history:history", "List tasks, the most recent first."),
    Entry("show", "show:show", "Show everything that is stored of one task."),
    Entry("stats", "stats:stats", "Show counts, failures and durations of each task."),
    Entry("timeline", "timeline:timeline", "Show how many tasks ended in each minute, hour or day."),
    Entry("failures", "failures:failures", "List groups of failures, show one, or mark it."),
    Entry("watch", "watch:watch", "Print tasks when they end."),
    Entry("export", "export:export", "Write tasks to a file: CSV, JSON lines or Parquet."),
    Entry("forget", "forget:forget", "Delete the stored results of tasks."),
    Entry("hold", "hold:app", "Keep results from being deleted."),
    Entry("retention", "retention:app", "Show how long results are kept, and apply changed rules."),
    Entry("cleanup", "cleanup:cleanup", "Delete expired results now."),
    Entry("retry", "retry:retry", "Send tasks again, after a preview."),
    Entry("archive", "archive:app", "Move old results into files, and verify the files."),
    Entry("restore", "restore:restore", "Bring archived results back into the table."),
    Entry("copy", "copy:copy", "Copy results into another store or system."),
    Entry("verify", "verify:verify", "Compare all results of two stores, and repair one of them."),
    Entry("import", "import_results:import_results", "Read results from a file or folder of Parquet."),
    Entry("migrate", "migrate:app", "Move to another store while workers go on, and back."),
    Entry("key", "key:key", "Make a key for encryption or for signatures."),
    Entry("rekey", "rekey:rekey", "Encrypt or sign every stored result under the first key."),
    Entry("drain", "drain:drain", "Move results of write-behind from Redis to PostgreSQL."),
    Entry("maintain", "maintain:maintain", "Report what the tables need, and do it."),
    Entry("metrics", "metrics:metrics", "Print or serve the metrics of a store for Prometheus."),
    Entry("schema", "schema:app", "Create, show and upgrade the tables of a store."),
    Entry("partitions", "partitions:app", "Keep tens of millions of results fast: an older table in partitions."),
    Entry("settings", "settings:settings", "Show what rootcellar.settings() reads, and what Celery gets."),
)


class LazyCommands(MutableMapping[str, Any]):
    """The commands by name. Each is made when it is first asked for."""

    def __init__(self) -> None:
        self._entries = {entry.name: entry for entry in COMMANDS}
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = _command(self._entries[name])
        return self._made[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        self._entries.pop(name, None)
        self._made.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter({**self._entries, **self._made})

    def __len__(self) -> int:
        return len({*self._entries, *self._made})


class LazyGroup(TyperGroup):
    """The command ``rootcellar``. Its help imports no command."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = LazyCommands()

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands, in the order of the list."""
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the names and the summaries of the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(entry.name, entry.summary) for entry in COMMANDS])


def _command(entry: Entry) -> Any:
    """Import a command, and return it as click's object."""
    module, _, name = entry.place.partition(":")
    loaded = import_module(f"rootcellar.cli.{module}")
    found = getattr(loaded, name)
    group = found if isinstance(found, typer.Typer) else _alone(entry, found, getattr(loaded, "EXAMPLES", None))
    command = typer.main.get_command(group)
    command.name = entry.name
    return command


def _alone(entry: Entry, function: Any, examples: str | None) -> typer.Typer:
    """Return an application of one command."""
    alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    alone.command(entry.name, epilog=examples, short_help=entry.summary)(function)
    return alone
