"""``rootcellar retry``: sends tasks again, after a preview and a question."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any

import typer
from celery import Celery

import rootcellar
from rootcellar.cli.confirmation import confirm
from rootcellar.cli.options import (
    Choice,
    DryRunOption,
    FilterArgument,
    JsonOption,
    YesOption,
    filter_text,
    store_options,
)
from rootcellar.cli.output import WrongUse, number_of_tasks, print_json, say, visible
from rootcellar.cli.stores import existing_history, load_app
from rootcellar.errors import RootcellarError
from rootcellar.history.repeats import Refusal, Repeat
from rootcellar.history.retry import RetryPreview

EXAMPLES = """\b
Examples:
  rootcellar retry state:failed since:24h 'task:shop.orders.*' --dry-run
  rootcellar retry state:failed failure:7K2Q9XMD --per-second 20
  rootcellar retry id:0b5c5f9e-8f4e-4f7b-a1f4-0e8f0c6f2d11 --yes
"""
#: the time between two lines of progress
_PROGRESS_INTERVAL_SECONDS = 1.0
#: the most characters of the arguments of an example
_MAX_SHOWN = 60


@store_options
def retry(
    choice: Choice,
    words: FilterArgument = None,
    broker: Annotated[
        str | None,
        typer.Option("--broker", metavar="URL", help="The broker, if neither --app nor the environment names it"),
    ] = None,
    queue: Annotated[
        str | None, typer.Option("--queue", metavar="NAME", help="Send to this queue, not to that of each task")
    ] = None,
    per_second: Annotated[
        float | None, typer.Option("--per-second", min=0.001, metavar="N", help="The most tasks to send in a second")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="The most tasks to send")] = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Also tasks that have not ended, such as those whose worker died")
    ] = False,
    send_unsure: Annotated[
        bool,
        typer.Option(
            "--send-unsure",
            help="Also tasks that an interrupted retry may have sent already: they may run twice",
        ),
    ] = False,
    without_headers: Annotated[
        bool,
        typer.Option(
            "--without-headers",
            help="Also tasks whose headers, priority and exchange are not stored: they are sent without them",
        ),
    ] = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Send tasks again: the same arguments, queue, headers and priority.

    Tasks are sent by their names; the application is not imported, unless --app names it. The new task has a new id,
    and `show` prints the link between the two. A task is sent once, however often this command is run: it may be
    stopped with Ctrl-C, or killed, and started again. A second Ctrl-C does not wait for the broker. docs/retry.md says
    what exactly is guaranteed.

    Tasks are not sent if their arguments were masked, truncated, pickled, encrypted under a missing key or not
    stored, or if they are part of a chord. Headers, priority and exchange are stored only for tasks that failed, were
    rejected or revoked: other tasks need --without-headers.

    Exit status: 0 if every task that was found was sent or had been sent before, 1 if some cannot be sent.
    """
    text = filter_text(words)
    if not text.strip():
        raise WrongUse("no filter is given: say which tasks, such as state:failed since:24h")
    app = _broker_app(choice, broker)
    with existing_history(choice) as history:
        asked = history.retry(
            text,
            app=app,
            queue=queue,
            limit=limit,
            unfinished=unfinished,
            send_unsure=send_unsure,
            without_headers=without_headers,
        )
        preview = asked.preview()
        report = _Json() if as_json else _Text()
        report.preview(preview, limit)
        if dry_run or not preview.sendable:
            report.end(preview.refused, is_stopped=False)
            raise typer.Exit(_status(preview.refused))
        count = min(preview.sendable, limit or preview.sendable)
        more = "" if preview.is_all or count == limit else "more than "
        confirm(yes, f"Send {more}{number_of_tasks(count)} again?")
        with _stopping() as stop:
            try:
                report.follow(asked.send(per_second=per_second, stop=stop), count)
            except RootcellarError as exc:
                report.error = str(exc)
                raise
            finally:
                # also after an error: what was sent is sent
                report.end(asked.refused, is_stopped=stop.is_set())
    if stop.is_set():
        raise typer.Exit(128 + signal.SIGINT)
    raise typer.Exit(_status(asked.refused))


def _status(refused: Mapping[Refusal, int]) -> int:
    return int(any(count for refusal, count in refused.items() if refusal is not Refusal.RETRIED))


def _broker_app(choice: Choice, broker: str | None) -> Any:
    """Return an app that has the broker: that of ``--app``, or one without tasks.

    Raises:
        WrongUse: no broker is given.
        SettingsWrong: the environment names a wrong one.
        ConfigurationError: the app cannot be loaded.
    """
    if choice.app and broker is None:
        return load_app(choice.app)
    if choice.app is None and broker is None:
        from rootcellar.configuration import names_backend

        if names_backend():
            app = Celery("rootcellar", set_as_current=False)
            app.config_from_object(rootcellar.settings())
            return app
        broker = os.environ.get("CELERY_BROKER_URL")
    if not broker:
        raise WrongUse("no broker is given: give --broker URL, or --app MODULE, or set CELERY_BROKER")
    app = Celery("rootcellar", set_as_current=False)
    app.conf.broker_url = broker
    return app


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C and SIGTERM set, so that the task that is being sent is finished first.

    A second signal ends the command at once, because the broker or the store may not answer.
    """
    stop = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]

    def restore() -> None:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()
        restore()
        # print() may be interrupted by a signal, and must not be called then
        os.write(2, b"Stopping after this task. To stop at once, press Ctrl-C again.\n")

    for number in numbers:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        restore()


class _Text:
    """Prints for people."""

    def __init__(self) -> None:
        self.sent = 0
        self.error: str | None = None

    def preview(self, preview: RetryPreview, limit: int | None) -> None:
        say(f"{number_of_tasks(preview.found)} found: {preview.sentence}.")
        if not preview.is_all:
            say("There are more tasks, which were not checked yet. The retry includes them.")
        if preview.sendable:
            at_most = f", {limit:,} of them now" if limit is not None and limit < preview.sendable else ""
            say(f"{preview.sendable:,} can be sent again{at_most}:")
        for repeat in preview.examples:
            say(f"  {repeat.old_id}  {repeat.name}{_shown(repeat)} to {repeat.routing_key}")
        if preview.sendable > len(preview.examples):
            say("  …")
        if preview.succeeded:
            say(f"{preview.succeeded:,} of them ended with SUCCESS.")
        if preview.followed:
            say(f"{preview.followed:,} of them were followed by other tasks in a workflow, which are not sent.")
        _say_refused(preview.refused)
        if preview.unread:
            say(f"{number_of_tasks(preview.unread)} left out: the filter asks for a value that cannot be read here.")

    def follow(self, sent: Iterator[Any], total: int) -> None:
        """Print the progress, and count the tasks that are sent."""
        printed = time.monotonic()
        for count, _ in enumerate(sent, 1):
            self.sent = count
            if time.monotonic() >= printed + _PROGRESS_INTERVAL_SECONDS:
                printed = time.monotonic()
                say(f"{count:,} of {total:,} sent." if count <= total else f"{count:,} sent.")

    def end(self, refused: Mapping[Refusal, int], *, is_stopped: bool) -> None:
        if self.sent or is_stopped:
            say(f"{number_of_tasks(self.sent)} sent again.")
        if is_stopped:
            say("Stopped. Run the same command again to go on.")


class _Json:
    """Prints one JSON document at the end."""

    def __init__(self) -> None:
        self._document: dict[str, Any] = {}
        self.error: str | None = None

    def preview(self, preview: RetryPreview, limit: int | None) -> None:
        self._document = {
            "filter": preview.sentence,
            "found": preview.found,
            "found_all": preview.is_all,
            "unread": preview.unread,
            "sendable": preview.sendable,
            "followed": preview.followed,
            "examples": [
                {"task_id": each.old_id, "name": each.name, "queue": each.routing_key} for each in preview.examples
            ],
            "sent": [],
        }

    def follow(self, sent: Iterator[Any], total: int) -> None:
        """Collect the tasks that are sent."""
        listed = self._document["sent"]
        for each in sent:
            listed.append({"task_id": each.old_id, "retried_as": each.new_id, "name": each.name})

    def end(self, refused: Mapping[Refusal, int], *, is_stopped: bool) -> None:
        self._document["refused"] = {refusal.name.lower(): count for refusal, count in refused.items()}
        self._document["stopped"] = is_stopped
        if self.error is not None:
            self._document["error"] = self.error
        print_json(self._document)


def _say_refused(refused: Mapping[Refusal, int]) -> None:
    for refusal, count in refused.items():
        who = "1 is" if count == 1 else f"{count:,} are"
        why = refusal.value if count == 1 else _plural(refusal.value)
        say(f"{who} not sent: {why}.")


def _plural(reason: str) -> str:
    """Return the reason for several tasks, such as "their arguments are pickled"."""
    words = {"it": "they", "its": "their", "was": "were", "has": "have", "is": "are", "belongs": "belong"}
    subject, _, rest = reason.partition(" ")
    if subject == "its":
        return f"their {rest}"
    if subject != "it":
        return reason
    verb, _, rest = rest.partition(" ")
    return f"they {words.get(verb, verb.removesuffix('s'))} {rest}"


def _shown(repeat: Repeat) -> str:
    """Return the arguments of a task, shortened."""
    texts = [*map(_compact, repeat.args), *(f"{name}={_compact(value)}" for name, value in repeat.kwargs.items())]
    text = ", ".join(texts)
    return visible(f"({text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + '…'})")


def _compact(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(value)
