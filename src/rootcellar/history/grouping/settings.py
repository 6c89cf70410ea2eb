"""Reads the settings of grouping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rootcellar.errors import ConfigurationError
from rootcellar.history.grouping.grouping import Grouper
from rootcellar.history.grouping.in_app import Application, application_of_process
from rootcellar.history.grouping.many import NewGroups
from rootcellar.payloads import Codec
from rootcellar.payloads.settings import value_of

#: the setting with the modules that are not the application's own
LIBRARIES = "result_failure_libraries"
_PURPOSE = b"failure groups"


def grouper_of_worker(conf: Mapping[str, Any], codec: Codec) -> Grouper:
    """Return the grouper of a worker, which knows the folders of its modules.

    Raises:
        ConfigurationError: the setting is neither a text nor a list of names.
    """
    application = application_of_process(libraries_of(conf))
    return Grouper(application, codec.sealer.derived_key(_PURPOSE), NewGroups())


def grouper_of_reader(conf: Mapping[str, Any], codec: Codec) -> Grouper:
    """Return the grouper for failures of other processes: it finds their modules by the names of the tasks.

    Raises:
        ConfigurationError: the setting is neither a text nor a list of names.
    """
    return Grouper(Application(libraries=libraries_of(conf)), codec.sealer.derived_key(_PURPOSE))


def libraries_of(conf: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of modules that are not the application's own, from Celery's settings or the environment.

    Raises:
        ConfigurationError: the setting is neither a text nor a list of names.
    """
    given, where = value_of(conf, LIBRARIES)
    names = given.split(",") if isinstance(given, str) else given or ()
    if not isinstance(names, (list, tuple, set, frozenset)) or not all(isinstance(name, str) for name in names):
        raise ConfigurationError(
            f"it is a {type(given).__name__}, not names of modules", where=where, remedy='write ["acme.base"]'
        )
    return tuple(name.strip() for name in names if name.strip())
