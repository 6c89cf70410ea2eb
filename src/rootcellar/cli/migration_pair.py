"""The two stores of a migration, as a command names them: two arguments, an app, or the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from rootcellar.cli.output import WrongUse
from rootcellar.cli.stores import load_app
from rootcellar.migration.pair import Pair, pair_of
from rootcellar.opening import backend_of, named_by, of_settings, store_of_variable
from rootcellar.stores import Store, open_store
from rootcellar.stores.dual import DualStore

#: what stands before the name of an app, and before that of a variable of the environment
_APP, _VARIABLE = "app:", "env:"

SourceArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="SOURCE",
        help="The store that has the results: a URL, app:MODULE or env:NAME. Left out: that of this environment",
        show_default=False,
    ),
]
TargetArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="TARGET",
        help="The store that gets them: the same. Left out: the one that ROOTCELLAR_MIGRATION names there",
        show_default=False,
    ),
]


@contextmanager
def both_stores(source: str | None, target: str | None) -> Iterator[tuple[Store, Store]]:
    """Open both stores of a migration, and close them at the end of the ``with`` block.

    Args:
        source, target: the arguments of the command.

    Raises:
        WrongUse: no target is named.
        ConfigurationError: one of them cannot be opened.
    """
    first, second = _opened(source, target)
    try:
        yield first, second
    finally:
        first.close()
        second.close()


@contextmanager
def opened_pair(source: str | None, target: str | None) -> Iterator[Pair]:
    """Like :func:`both_stores`, for commands that need a pair that can be migrated.

    Raises:
        MigrationRefused: one of the stores cannot take part in a migration.
    """
    with both_stores(source, target) as (first, second):
        yield pair_of(first, second)


def _opened(source: str | None, target: str | None) -> tuple[Store, Store]:
    if target is not None and source is not None:
        return _source_of(_store(source, "SOURCE")), _source_of(_store(target, "TARGET"))
    store = _store_of_environment() if source is None else _store(source, "SOURCE")
    if isinstance(store, DualStore):
        return store.source, store.target
    store.close()
    raise WrongUse(
        "no target is named: give SOURCE and TARGET, or run this where CELERY_RESULT_BACKEND and ROOTCELLAR_MIGRATION "
        "are set"
    )


def _source_of(store: Store) -> Store:
    """Return a store, or the source of one that is migrated: both ends are named."""
    return store.source if isinstance(store, DualStore) else store


def _store(text: str, name: str) -> Store:
    if text.startswith(_APP):
        return backend_of(load_app(text.removeprefix(_APP)), name).store
    if text.startswith(_VARIABLE):
        variable = text.removeprefix(_VARIABLE)
        text, name = os.environ.get(variable, ""), variable
        if not text:
            raise WrongUse(f"the variable {variable} is not set")
    with named_by(name):
        return open_store(text)


def _store_of_environment() -> Store:
    # imported late: importing takes a moment
    from rootcellar.configuration import names_backend

    if not names_backend():
        if store_of_variable() is None:
            raise WrongUse("no stores are named: give SOURCE and TARGET; see `rootcellar migrate --help`")
        raise WrongUse("no target is named: give SOURCE and TARGET")
    url, options, _ = of_settings()
    with named_by("CELERY_RESULT_BACKEND"):
        return open_store(url, options)
