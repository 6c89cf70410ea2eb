"""Opens the results of an application for reading: by a URL, by a Celery app, or by the environment and ``.env``.

Commands and :func:`open_history` use the same code, so they see the same rows with the same keys.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import tzinfo
from functools import partial
from pathlib import Path
from typing import Any

from celery import Celery

import rootcellar
from rootcellar.backend import ResultBackend
from rootcellar.backend.options import store_options
from rootcellar.descriptions.registry import backend_of_scheme
from rootcellar.errors import AbilityMissing, ConfigurationError, RootcellarError, SchemaMissing
from rootcellar.history.history import History
from rootcellar.history.old_results import OldResults
from rootcellar.payloads import Codec, codec_of
from rootcellar.payloads.settings import value_of
from rootcellar.stores import Store, StoreOptions, open_store
from rootcellar.stores.archiving import Manifest
from rootcellar.stores.base import HasSchema

#: the environment variable that names a store to read; without it, settings() chooses the store
VARIABLE = "ROOTCELLAR_BACKEND"
#: the file of variables that is read, in the working directory
ENV_FILE = ".env"


@dataclass(frozen=True, slots=True)
class Results:
    """A store, the codec that reads its values, and Celery's configuration, which may be empty."""

    store: Store
    codec: Codec
    conf: Mapping[str, Any] = field(default_factory=dict)


def open_history(
    url: str | None = None,
    *,
    app: Celery | None = None,
    options: StoreOptions | None = None,
    zone: tzinfo | None = None,
) -> History:
    """Open the stored results of an application, to ask questions about them. Use it as a context manager.

    Encrypted values are read with the keys of the app, or of the environment and ``.env``.

    Args:
        url: the URL of the store, as in ``result_backend``. Without it and without an app, the variables
            ``ROOTCELLAR_BACKEND`` or ``CELERY_RESULT_BACKEND`` name the store, as for the commands.
        app: the app whose results are meant. Closing the history leaves the app's connections open.
        options: names of tables and other options of the store of ``url``.
        zone: the time zone of dates and times in filters; ``None`` for that of this process.

    Raises:
        ConfigurationError: no store is given, or it cannot be used.
        AbilityMissing: the app's results are messages that no server keeps.
        SchemaMissing: there are no tables yet.
    """
    if url is not None and app is not None:
        raise ConfigurationError("both a URL and an app are given", where="open_history", remedy="give one of them")
    if app is not None:
        backend = backend_of(app, "open_history(app=…)")
        must_exist(backend.store)
        return History(
            backend.store,
            codec_for(app.conf),
            zone=zone,
            owns_store=False,
            conf=app.conf,
            open_archive=partial(archive_for, backend.store, app.conf),
        )
    store, conf = _named_store(url, options)
    try:
        codec = codec_for(conf)
        must_exist(store)
    except BaseException:
        store.close()
        raise
    return History(store, codec, zone=zone, conf=conf, open_archive=partial(archive_for, store, conf))


def _named_store(url: str | None, options: StoreOptions | None) -> tuple[Store, Mapping[str, Any]]:
    """Return the store, and the configuration, which may be empty."""
    source = "open_history(url)"
    conf: Mapping[str, Any] = {}
    if url is None and (url := store_of_variable()) is not None:
        source = VARIABLE
    if url is None:
        source = "CELERY_RESULT_BACKEND"
        url, own, conf = of_settings()
        options = options or own
    with named_by(source):
        return open_store(url, options), conf


def of_settings() -> tuple[str, StoreOptions, Mapping[str, Any]]:
    """Return the URL, the options and the configuration of the store that :func:`rootcellar.settings` chooses.

    Raises:
        SettingsWrong: something is wrong or missing.
        AbilityMissing: results are messages that no server keeps.
    """
    app = Celery("rootcellar", set_as_current=False)
    app.config_from_object(rootcellar.settings(broker=False))
    backend_of(app, "CELERY_RESULT_BACKEND")
    return str(app.conf.result_backend), store_options(app.conf), app.conf


def backend_of(app: Celery, where: str) -> ResultBackend:
    """Return the result backend of an app.

    Args:
        app: the app.
        where: how the app was named, for the message of an error.

    Raises:
        AbilityMissing: its results are messages that no server keeps.
        ConfigurationError: it has another result backend than rootcellar's.
    """
    backend = app.backend
    if isinstance(backend, ResultBackend):
        return backend
    if type(backend).__module__.partition(".")[0] == "rootcellar":
        raise AbilityMissing(
            "with rpc, results are messages that no server keeps",
            where=where,
            remedy="choose a backend that keeps them, or name another store",
        )
    raise ConfigurationError(
        "the app has another result backend than rootcellar's",
        where=where,
        remedy="set result_backend to a URL that begins with rootcellar+, or name the store by its URL",
    )


def codec_for(conf: Mapping[str, Any]) -> Codec:
    """Return the codec of a configuration; for an empty one, that of the environment and ``.env``."""
    return codec_of(payload_settings_for(conf))


def payload_settings_for(conf: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a configuration; for an empty one, the settings for stored values from ``.env``."""
    return conf or _payload_settings()


def archive_for(store: Store, conf: Mapping[str, Any]) -> OldResults | None:
    """Return the archive of a configuration; for an empty one, that of the environment and ``.env``.

    ``None`` if it names none.

    Raises:
        ConfigurationError: the place cannot be used, or the store does not know what is archived.
        DriverMissing: a package that the archive needs is not installed.
    """
    url, where = value_of(conf or _payload_settings(), "result_archive")
    if url is None:
        return None
    # imported late: few processes read archived results
    from rootcellar.archive.listing import ArchivedResults
    from rootcellar.backend.archived import archive_of

    return ArchivedResults(archive_of(str(url), store, where), store)


def can_archive(url: str) -> bool:
    """Return whether results of this store can be archived: ``False`` if its server deletes them by itself.

    The store is not connected to. ``True`` also if it cannot be opened, which others report.

    Args:
        url: the URL of the store, as in ``result_backend``.
    """
    own = url.removeprefix("rootcellar+")
    backend = backend_of_scheme(own.partition("://")[0])
    if backend is None:
        return True
    if not backend.keeps_results:
        return False
    try:
        store = open_store(own)
    except RootcellarError:
        return True
    try:
        return store.ability(Manifest) is not None
    finally:
        store.close()


def _payload_settings() -> Mapping[str, Any]:
    """Return the settings for stored values from ``.env``, such as keys, for a store that is named by a URL."""
    if not Path(ENV_FILE).is_file():
        # the codec reads the environment itself
        return {}
    from rootcellar.configuration import payload_settings

    return payload_settings()


def must_exist(store: Store) -> None:
    """Check that a store has tables, without creating any.

    Raises:
        SchemaMissing: there are no tables yet.
        ForeignTables: tables that rootcellar did not create have these names.
    """
    if (tables := store.ability(HasSchema)) is None:
        return
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


@contextmanager
def named_by(source: str) -> Iterator[None]:
    """Name the option or variable that contains the URL in an error about the URL."""
    try:
        yield
    except ConfigurationError as exc:
        if exc.where != "result_backend":
            raise
        raise type(exc)(exc.what, where=source, remedy=exc.remedy) from None


def store_of_variable() -> str | None:
    """Return the URL of ``ROOTCELLAR_BACKEND`` in the environment or in ``.env``, or ``None`` if it is not set."""
    if os.environ.get(VARIABLE) or not Path(ENV_FILE).is_file():
        return os.environ.get(VARIABLE) or None
    from rootcellar.configuration import named_store

    return named_store()
