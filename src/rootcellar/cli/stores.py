"""Chooses the store of a command: by ``--backend``, else ``--app``, else the environment and ``.env``."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from celery import Celery
from celery.app.utils import find_app

import rootcellar
from rootcellar.backend import ResultBackend
from rootcellar.backend.options import store_options
from rootcellar.cli.options import Choice
from rootcellar.cli.output import WrongUse
from rootcellar.errors import AbilityMissing, ConfigurationError, RootcellarError, SchemaMissing
from rootcellar.payloads import Codec, codec_of
from rootcellar.stores import Store, StoreOptions, open_store
from rootcellar.stores.base import HasSchema
from rootcellar.urls import redact

#: the environment variable for the store of these commands; without it, settings() chooses the store
VARIABLE = "ROOTCELLAR_BACKEND"
#: the file of variables that commands read, in the working directory
ENV_FILE = ".env"


@dataclass(frozen=True, slots=True)
class Results:
    """A store, and the codec that reads its values."""

    store: Store
    codec: Codec


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
        codec = codec_of(conf or _payload_settings())
        _must_exist(store)
        yield Results(store, codec)
    finally:
        store.close()


def _payload_settings() -> Mapping[str, Any]:
    """Return the settings for stored values from ``.env``, such as keys, for a store that is named by a URL."""
    if not Path(ENV_FILE).is_file():
        # the codec reads the environment itself
        return {}
    from rootcellar.configuration import payload_settings

    return payload_settings()


def _must_exist(store: Store) -> None:
    if (tables := store.ability(HasSchema)) is not None:
        status = tables.schema.status()
        if status.foreign:
            store.check()
        if not status.version:
            raise SchemaMissing(
                "there are no results here yet",
                where=store.where,
                remedy="check that database and tables are the right ones; the first worker or "
                "`rootcellar schema create` creates the tables",
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


@contextmanager
def named_by(source: str) -> Iterator[None]:
    """Name the option or variable that contains the URL in an error about the URL."""
    try:
        yield
    except ConfigurationError as exc:
        if exc.where != "result_backend":
            raise
        raise type(exc)(exc.what, where=source, remedy=exc.remedy) from None


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
    app = Celery("rootcellar", set_as_current=False)
    app.config_from_object(rootcellar.settings(broker=False))
    if not isinstance(app.backend, ResultBackend):
        raise AbilityMissing(
            "with rpc, results are messages that no server keeps",
            where="CELERY_RESULT_BACKEND",
            remedy="choose a backend that keeps them, or give --backend",
        )
    return "CELERY_RESULT_BACKEND", str(app.conf.result_backend), store_options(app.conf), app.conf


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


def store_of_variable() -> str | None:
    """Return the URL of ``ROOTCELLAR_BACKEND`` in the environment or in ``.env``, or ``None`` if it is not set."""
    if os.environ.get(VARIABLE) or not Path(ENV_FILE).is_file():
        return os.environ.get(VARIABLE) or None
    from rootcellar.configuration import named_store

    return named_store()


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
        backend = app.backend
    if not isinstance(backend, ResultBackend):
        raise AbilityMissing(
            "with rpc, results are messages that no server keeps",
            where=f"--app {name}",
            remedy="choose a backend that keeps them, or give --backend",
        )
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
