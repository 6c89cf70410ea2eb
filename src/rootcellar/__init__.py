"""rootcellar keeps the results of Celery tasks."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rootcellar.configuration import Settings
    from rootcellar.payloads.typed.registry import register_type
    from rootcellar.waiting.aio import StateChange, as_completed, result, watch

__version__ = "0.1.0"

__all__ = ["StateChange", "__version__", "as_completed", "register_type", "result", "settings", "watch"]

#: imported when they are asked for: kombu imports this package while it is itself half imported, for the serializer
_LAZY = {name: "rootcellar.waiting.aio" for name in ("StateChange", "as_completed", "result", "watch")}
_LAZY["register_type"] = "rootcellar.payloads.typed.registry"


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def settings(env_file: str | Path | None = ".env", *, broker: bool = True, prefix: str | None = None) -> Settings:
    """Return the Celery configuration that the environment describes, for ``app.config_from_object``.

    Reads the environment, then ``env_file`` for what is not there, then files of secrets (``DB_PASSWORD_FILE``).
    ``CELERY_BROKER`` and ``CELERY_RESULT_BACKEND`` choose by a name or a URL; docs/configuration.md lists every
    variable. Where Celery reads a variable by itself, over any configuration (``CELERY_RESULT_BACKEND``,
    ``CELERY_BROKER_URL``), its value in ``os.environ`` is replaced by the URL that it stands for.

    Args:
        env_file: a file of lines ``NAME=value``; ``None`` for none. The default one is looked for in the working
            directory, then beside the module that calls this and in the folders of its packages; it may be missing.
        broker: whether a broker must be given; false where the app names its own.
        prefix: what the names of the servers' variables begin with, where an application has variables of the same
            names: with ``RESULTS_``, ``RESULTS_DB_HOST`` is read and ``DB_HOST`` is not. Names that begin with
            ``CELERY_`` or ``ROOTCELLAR_`` stay as they are. By default what ``ROOTCELLAR_PREFIX`` says.

    Raises:
        SettingsWrong: something is wrong or missing; its text and its ``problems`` list everything that is.
    """
    # imported late: most who import rootcellar do not ask for this
    from rootcellar.configuration import load

    return load(env_file, broker=broker, prefix=prefix, beside=_folder_of(sys._getframe(1).f_globals))


def _folder_of(module: Mapping[str, Any]) -> Path | None:
    """Return the folder of an app's module; ``None`` for our own modules, and where there is no file."""
    is_ours = str(module.get("__name__", "")).partition(".")[0] == __name__
    return None if is_ours or not module.get("__file__") else Path(module["__file__"]).absolute().parent
