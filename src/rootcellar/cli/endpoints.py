"""The two ends of a copy, as a command names them: a URL, an app, a variable, or a folder or file of Parquet."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any

import typer

from rootcellar.cli.output import WrongUse
from rootcellar.cli.stores import load_app
from rootcellar.cli.times import parse_span
from rootcellar.errors import AbilityMissing, ConfigurationError, MigrationRefused
from rootcellar.history.filters import Clock, Filter, FilterWrong, Matcher, parse
from rootcellar.history.lists import opened
from rootcellar.history.stuck import looked_up
from rootcellar.migration.endpoint import Endpoint, Spec, store_endpoint
from rootcellar.migration.endpoints import open_endpoint
from rootcellar.opening import backend_of, codec_for, must_exist, named_by
from rootcellar.payloads import Codec
from rootcellar.records import TaskRecord
from rootcellar.stores.dual.phases import STATE_KEY, goes_on

#: what stands before the name of an app, and before that of a variable of the environment
_APP, _VARIABLE = "app:", "env:"
_HELP = "a URL, app:MODULE, env:NAME, or a folder or file of Parquet"

SourceArgument = Annotated[
    str, typer.Argument(metavar="SOURCE", help=f"Where the results are: {_HELP}", show_default=False)
]
TargetArgument = Annotated[
    str, typer.Argument(metavar="TARGET", help=f"Where they are wanted: {_HELP}", show_default=False)
]
RateOption = Annotated[float | None, typer.Option("--rate", metavar="N", help="Read at most so many results a second")]
PickleOption = Annotated[
    bool,
    typer.Option("--allow-pickle", help="Read pickles of plain data that Celery stored; none of their code is run"),
]
KeepOption = Annotated[
    str | None,
    typer.Option(
        "--keep",
        metavar="SPAN",
        help="Results of db+ and django-db+ expire this long after their end",
    ),
]
GroupsOption = Annotated[
    bool, typer.Option("--groups/--no-groups", help="Whether saved groups are included", show_default=False)
]


@dataclass(frozen=True, slots=True)
class Opened:
    """An end of a copy.

    Attributes:
        endpoint: the end.
        spec: how a second process opens it; ``None`` if only this process can.
        conf: Celery's configuration; empty without an app.
    """

    endpoint: Endpoint
    spec: Spec | None = None
    conf: Mapping[str, Any] = field(default_factory=dict)

    @property
    def codec(self) -> Codec:
        """What decrypts the values."""
        return codec_for(self.conf)


@contextmanager
def opened_end(text: str, name: str, *, allow_pickle: bool = False, keep: str | None = None) -> Iterator[Opened]:
    """Open one end of a copy, and close it at the end of the ``with`` block.

    Args:
        text: what the command was given.
        name: the name of the argument, for messages.
        allow_pickle: see :class:`~rootcellar.migration.endpoint.Spec`.
        keep: how long after their end results are kept that have no expiry: ``12h``, ``30d``; ``None`` for ever.

    Raises:
        ConfigurationError: it cannot be used.
        WrongUse: the variable is not set, or ``keep`` is no duration.
    """
    try:
        span = None if keep is None else parse_span(keep)
    except ValueError as exc:
        raise WrongUse(f"--keep: {exc}") from exc
    found = _opened(text, name, Spec("", allow_pickle=allow_pickle, keep=span))
    try:
        yield found
    finally:
        found.endpoint.close()


def _opened(text: str, name: str, how: Spec) -> Opened:
    if text.startswith(_APP):
        app = load_app(text.removeprefix(_APP))
        store = backend_of(app, name).store
        return Opened(store_endpoint(store), _portable(Spec(store.url, store.options)), app.conf)
    if text.startswith(_VARIABLE):
        variable = text.removeprefix(_VARIABLE)
        text = os.environ.get(variable, "")
        if not text:
            raise WrongUse(f"{name}: the variable {variable} is not set")
        name = variable
    spec = replace(how, text=text)
    with named_by(name):
        return Opened(open_endpoint(spec), _portable(spec))


def _portable(spec: Spec) -> Spec | None:
    """Return how another process opens an end; ``None`` if it cannot."""
    if spec.text.removeprefix("rootcellar+").startswith("memory:"):
        return None
    try:
        pickle.dumps(spec)
    except (pickle.PicklingError, TypeError, AttributeError):
        # such as a function that returns the password
        return None
    return spec


def check_pair(source: Endpoint, target: Endpoint) -> None:
    """Check that two ends are not the same place, and that the source has results.

    Raises:
        WrongUse: they are the same.
        SchemaMissing: the source has no tables.
    """
    if source.name == target.name:
        raise WrongUse("SOURCE and TARGET are the same place")
    if source.store is not None:
        must_exist(source.store)


def check_not_migrated(target: Endpoint) -> None:
    """Check that no live migration goes on here: it would delete what comes into one of its stores only.

    Raises:
        MigrationRefused: one does.
    """
    if target.values is None:
        return
    state = target.values.shared(STATE_KEY).get(STATE_KEY)
    if state is not None and goes_on(state.value):
        raise MigrationRefused(
            "this store takes part in a live migration, which copies and repairs by itself",
            where=target.where,
            remedy="see `rootcellar migrate status`; copy before the migration is started, or after it is retired",
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which results are meant.

    Attributes:
        text: the filter with absolute moments; empty for every result.
        matches: says whether a record is meant; ``None`` for every record.
        unread: returns how many records were not found because a value that the filter asks for cannot be read.
    """

    text: str
    matches: Callable[[TaskRecord], bool] | None
    unread: Callable[[], int] = lambda: 0


def parsed(text: str) -> Filter:
    """Return the tree of a filter without an order.

    Raises:
        FilterWrong: it cannot be understood, or has an order.
    """
    query = parse(text)
    if query.sort:
        raise FilterWrong("results are not copied in an order", text, text.rindex("sort:"), "leave out sort:")
    return query


def wanted(query: Filter, text: str, end: Opened, clock: Clock) -> Wanted:
    """Return which records of an end a filter means.

    Args:
        query: the filter.
        text: the same, with absolute moments.
        end: where the records are.
        clock: the present.

    Raises:
        AbilityMissing: the filter asks what only a store can answer, and the end is none.
    """
    if query.condition is None:
        return Wanted("", None)
    opener = partial(opened, end.codec)
    if end.endpoint.store is not None:
        query = looked_up(query, end.endpoint.store, clock, opener)
    try:
        matcher = Matcher(query.condition, clock, opener)
    except AbilityMissing as exc:
        raise AbilityMissing(exc.what, where=end.endpoint.where, remedy="leave out is:late and is:stuck") from None
    except ValueError as exc:
        raise ConfigurationError(f"the filter cannot be used: {exc}", where="FILTER") from exc
    return Wanted(text, matcher, lambda: matcher.unread)
