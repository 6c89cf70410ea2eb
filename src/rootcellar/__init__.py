"""rootcellar keeps the results of Celery tasks."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rootcellar.backend.retaining import expires, keep
    from rootcellar.configuration import Settings
    from rootcellar.history.grouping.own import group_failures
    from rootcellar.history.history import History
    from rootcellar.maintenance.beat import beat_schedule
    from rootcellar.metrics.instrument import instrument
    from rootcellar.opening import open_history
    from rootcellar.payloads.typed.registry import register_type
    from rootcellar.waiting.completed import as_completed
    from rootcellar.waiting.result import result
    from rootcellar.waiting.watch import StateChange, watch

__version__ = "0.1.0"

__all__ = [
    "History",
    "StateChange",
    "__version__",
    "as_completed",
    "beat_schedule",
    "expires",
    "group_failures",
    "instrument",
    "keep",
    "open_history",
    "register_type",
    "result",
    "settings",
    "watch",
]

#: imported when they are first used: kombu imports this package for its serializer while kombu is only half imported
_LAZY = {
    "History": "rootcellar.history.history",
    "StateChange": "rootcellar.waiting.watch",
    "as_completed": "rootcellar.waiting.completed",
    "beat_schedule": "rootcellar.maintenance.beat",
    "expires": "rootcellar.backend.retaining",
    "keep": "rootcellar.backend.retaining",
    "open_history": "rootcellar.opening",
    "group_failures": "rootcellar.history.grouping.own",
    "instrument": "rootcellar.metrics.instrument",
    "register_type": "rootcellar.payloads.typed.registry",
    "result": "rootcellar.waiting.result",
    "watch": "rootcellar.waiting.watch",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def settings(env_file: str | Path | None = ".env", *, broker: bool = True, prefix: str | None = None) -> Settings:
    """Return the Celery configuration from the environment, for ``app.config_from_object``.

    Reads the environment, then ``env_file`` for missing variables, then files with secrets (``DB_PASSWORD_FILE``).
    ``CELERY_BROKER`` and ``CELERY_RESULT_BACKEND`` name a kind of server or give a URL; docs/configuration.md lists
    every variable. Celery itself reads ``CELERY_RESULT_BACKEND`` and ``CELERY_BROKER_URL`` with precedence over any
    configuration, so their values in ``os.environ`` are replaced by the resulting URLs.

    Args:
        env_file: a file of lines ``NAME=value``; ``None`` for none. The default file is searched in the working
            directory, then in the folder of the calling module and the folders of its packages; it may be missing.
        broker: whether a broker must be given; false if the app sets its own.
        prefix: a prefix for the names of the servers' variables, if an application has variables of the same
            names: with ``RESULTS_``, ``RESULTS_DB_HOST`` is read and ``DB_HOST`` is not. Names that begin with
            ``CELERY_`` or ``ROOTCELLAR_`` have no prefix. The default is the value of ``ROOTCELLAR_PREFIX``.

    Raises:
        SettingsWrong: something is wrong or missing; its message and its ``problems`` list everything.
    """
    # imported late: most programs that import rootcellar do not call this
    from rootcellar.configuration import load

    return load(env_file, broker=broker, prefix=prefix, beside=_folder_of(sys._getframe(1).f_globals))


def _folder_of(module: Mapping[str, Any]) -> Path | None:
    """Return the folder of an app's module; ``None`` for our own modules, and for a module without a file."""
    is_ours = str(module.get("__name__", "")).partition(".")[0] == __name__
    return None if is_ours or not module.get("__file__") else Path(module["__file__"]).absolute().parent
