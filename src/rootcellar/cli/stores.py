"""Chooses the store of a command: by ``--backend``, else ``--app``, else the environment and ``.env``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from celery.app.utils import find_app

from rootcellar.cli.options import Choice
from rootcellar.cli.output import WrongUse
from rootcellar.errors import ConfigurationError, RootcellarError
from rootcellar.history.history import History
from rootcellar.opening import (
    ENV_FILE,
    VARIABLE,
    Results,
    archive_for,
    backend_of,
    codec_for,
    must_exist,
    named_by,
    of_settings,
    store_of_variable,
)
from rootcellar.stores import Store, StoreOptions, open_store
from rootcellar.urls import redact


@contextmanager
def chosen_store(choice: Choice) -> Iterator[Store]:
    """Open the store that was chosen, and close it at the end of the ``with`` block.

    Raises:
        ConfigurationError: the app cannot be loaded, or has another kind of backend.
        WrongUse: no store is given, or the options contradict each other.
    """
    store, _ = _store_and_conf(choice)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def existing_results(choice: Choice) -> Iterator[Results]:
    """Like :func:`chosen_store`, for commands that must not create a database or tables.

    The codec has the keys of the app or of the environment.

    Raises:
        SchemaMissing: there are no tables yet.
        ForeignTables: tables that rootcellar did not create have these names.
    """
    store, conf = _store_and_conf(choice)
    try:
        codec = codec_for(conf)
        must_exist(store)
        yield Results(store, codec, conf)
    finally:
        store.close()


@contextmanager
def chosen_history(choice: Choice) -> Iterator[History]:
    """Like :func:`existing_history`, for a command that also runs while there are no tables yet."""
    store, conf = _store_and_conf(choice)
    try:
        yield History(store, codec_for(conf), owns_store=False)
    finally:
        store.close()


@contextmanager
def existing_history(choice: Choice) -> Iterator[History]:
    """Like :func:`existing_results`, for commands that ask questions about the stored results."""
    with existing_results(choice) as results:
        yield History(
            results.store,
            results.codec,
            owns_store=False,
            conf=results.conf,
            open_archive=partial(archive_for, results.store, results.conf),
        )


def _store_and_conf(choice: Choice) -> tuple[Store, Mapping[str, Any]]:
    return _app_store(choice) if choice.app else _url_store(choice)


def _url_store(choice: Choice) -> tuple[Store, Mapping[str, Any]]:
    source, url, options, conf = _named_store(choice)
    options = replace(
        options,
        task_table=choice.task_table or options.task_table,
        group_table=choice.group_table or options.group_table,
        task_schema=choice.schema or options.task_schema,
        group_schema=choice.schema or options.group_schema,
    )
    with named_by(source):
        return open_store(url, options), conf


def _named_store(choice: Choice) -> tuple[str, str, StoreOptions, Mapping[str, Any]]:
    """Return where the store is named, its URL, its options, and the configuration, which may be empty."""
    if choice.backend is not None:
        return "--backend", choice.backend, StoreOptions(), {}
    if (url := store_of_variable()) is not None:
        return VARIABLE, url, StoreOptions(), {}
    # imported late: importing takes a moment, and this way of naming the store is rare
    from rootcellar.configuration import names_backend

    if not names_backend():
        raise WrongUse(f"no result backend is given{no_env_file()}: give --backend URL{or_app()}")
    url, options, conf = of_settings()
    return "CELERY_RESULT_BACKEND", url, options, conf


def or_app() -> str:
    """Return a text for a message: the other ways to name the store of a command."""
    return f", or --app {app_of_folder() or 'MODULE'}, or set CELERY_RESULT_BACKEND or {VARIABLE}"


def app_of_folder() -> str | None:
    """Return the name of the Celery app of a Django project in the working directory, as for ``celery -A``.

    ``None`` if there is no such project, or if its app is not in a usual place.
    """
    manage = Path("manage.py")
    text = manage.read_text(encoding="utf-8", errors="replace") if manage.is_file() else ""
    match = re.search(r"""DJANGO_SETTINGS_MODULE["']\s*,\s*["'](\w+)""", text)
    if match is None:
        return None
    places = ((match[1], "celery.py"), (f"{match[1]}.celery_app", "celery_app.py"))
    return next((name for name, file in places if (Path(match[1]) / file).is_file()), None)


def no_env_file(path: str = ENV_FILE) -> str:
    """Return a text for a message that says where the file of variables is missing; empty if it exists."""
    return "" if Path(path).is_file() else f"; there is no {Path(path).name} in {Path(path).absolute().parent}"


def _app_store(choice: Choice) -> tuple[Store, Mapping[str, Any]]:
    if choice.backend is not None:
        raise WrongUse("give --backend or --app, not both")
    if choice.task_table or choice.group_table or choice.schema:
        raise WrongUse("give --app or the names of tables, not both: the settings of the app name its tables")
    name = str(choice.app)
    app = load_app(name)
    # imported late: importing takes a moment, and --backend does not need it
    from rootcellar.checks.environment import not_rootcellar

    if (problem := not_rootcellar(app.conf.result_backend)) is not None:
        raise ConfigurationError(problem.seen, where=f"--app {name}", remedy=f"{problem.advice}, or give --backend")
    with _code_of_the_user(name):
        backend = backend_of(app, f"--app {name}")
    return backend.store, backend.app.conf


def load_app(name: str) -> Any:
    """Return the app after loading its configuration, but not its backend.

    Raises:
        ConfigurationError: the app cannot be loaded.
    """
    with _code_of_the_user(name):
        app = find_app(name)
        # reading any value makes Celery load the configuration
        app.conf.get("result_backend")
    return app


def tasks_of(name: str, app: Any) -> Mapping[str, Any]:
    """Return the tasks of an app by their names, after importing the modules that its settings name.

    Args:
        name: the name of the app, for the message of an error.
        app: the app.

    Raises:
        ConfigurationError: a module of the app cannot be imported.
    """
    with _code_of_the_user(name):
        app.finalize(auto=True)
        app.loader.import_default_modules()
        tasks: Mapping[str, Any] = app.tasks
    return tasks


@contextmanager
def _code_of_the_user(name: str) -> Iterator[None]:
    """Run modules of an app. Their output goes to standard error, and any exception becomes a ConfigurationError."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except RootcellarError:
        raise
    except (Exception, SystemExit) as exc:
        raise ConfigurationError(
            redact(f"the app cannot be loaded: {type(exc).__name__}: {exc}"),
            where=f"--app {name}",
            remedy="name it as for `celery -A`, and run this command in a folder in which `celery -A` works",
        ) from exc


def check_archive(history: History) -> None:
    """Check that there is an archive.

    Raises:
        WrongUse: none is named.
    """
    if history.archive is None:
        raise WrongUse("no archive is named: set result_archive, or ROOTCELLAR_ARCHIVE in the environment")
