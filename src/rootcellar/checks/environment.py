"""What to check, as the environment, an app or a URL says it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import rootcellar
from rootcellar.checks.choosing import Notification, broker_of, is_known, sections_for
from rootcellar.checks.findings import Finding
from rootcellar.checks.steps import Checks, found_in, wrong
from rootcellar.checks.target import target_of
from rootcellar.configuration.celery_names import setting_of
from rootcellar.configuration.choices import BACKENDS, SYNONYMS
from rootcellar.configuration.reading import DEFAULT_FILE
from rootcellar.configuration.settings import READ_BY_CELERY
from rootcellar.errors import SettingsWrong
from rootcellar.stores import schemes
from rootcellar.urls import redact

#: what may be checked by name, beside a URL and the backends
BROKER, ALL = "broker", "all"
_BACKEND_VARIABLE = "CELERY_RESULT_BACKEND"
#: schemes of URLs that only a broker has
_BROKER_SCHEMES = ("amqp", "amqps", "pyamqp")
#: a URL to begin with
_EXAMPLE = "rootcellar+postgresql://user:password@host/database"
#: what the URL of a result backend of rootcellar begins with
_OURS = ("rootcellar+", "rootcellar-rpc")


def name_of(text: str) -> str | None:
    """Return what a name stands for, ``None`` if it is none that can be checked."""
    name = SYNONYMS.get(text.lower(), text.lower())
    name = BROKER if name == "rabbitmq" else name
    return name if name in (*BACKENDS, BROKER, ALL) else None


def from_environment(name: str | None, processes: int | None, env_file: str = DEFAULT_FILE) -> list[Checks]:
    """Return the checks of what the environment and ``.env`` say.

    Args:
        name: a kind of backend, whose variables are taken whatever ``CELERY_RESULT_BACKEND`` says; ``broker``, ``all``,
            or ``None`` for the result backend.
        processes: how many use it.
        env_file: the file of variables.
    """
    if name in BACKENDS:
        os.environ[_BACKEND_VARIABLE] = str(name)
    elif name == BROKER:
        # results are not looked at, and need not be named
        os.environ[_BACKEND_VARIABLE] = "sqlite"
    try:
        conf = rootcellar.settings(env_file, broker=name in (BROKER, ALL, "rpc"))
    except SettingsWrong as exc:
        problems = [wrong("settings-wrong", problem) for problem in exc.problems]
        return [Notification([*problems, *_doubts(exc.warnings)], exc.where)]
    doubts = _doubts(conf.warnings)
    return [*([Notification(doubts, "environment")] if doubts else []), *_sections(dict(conf), name, processes)]


def _doubts(warnings: Sequence[str]) -> list[Finding]:
    return [wrong("settings-doubtful", text) for text in warnings]


def from_app(app: Any, name: str | None, processes: int | None) -> list[Checks]:
    """Return the checks of what an app's settings say; ``name`` is ``broker``, ``all``, or ``None`` for its results."""
    conf = settings_of(app)
    problem = None if name == BROKER else not_rootcellar(conf.get("result_backend"))
    if problem is None:
        return _sections(conf, name, processes)
    results = Notification([problem], f"results of {app.main or 'the app'}")
    return [*(_sections(conf, BROKER, processes) if name == ALL else []), results]


def settings_of(app: Any) -> dict[str, Any]:
    """Return the settings that an app was given, under Celery's lower-case names.

    Celery takes them also with a prefix (``namespace="CELERY"``) and under its old upper-case names. Whatever else is
    in the same place, such as Django's own settings, is left out.
    """
    conf = app.conf
    # finding any value makes Celery read the configuration
    conf.get("result_backend")
    names = {setting_of(str(key), conf.prefix or "") for key in list(conf.without_defaults())}
    found = {name: conf.get(name) for name in names if name and not hasattr(dict, name)}
    # over any configuration Celery takes these two from the environment
    given = {"result_backend": conf.result_backend, "broker_url": conf.broker_url}
    return {**found, **{name: value for name, value in given.items() if value}}


def not_rootcellar(backend: Any) -> Finding | None:
    """Return the finding about a result backend that is not one of rootcellar's; ``None`` for one that is.

    Args:
        backend: Celery's setting ``result_backend``: a URL, a name or a class.
    """
    if not backend or backend == "disabled" or str(backend).startswith("disabled://"):
        return wrong("backend-missing", "the app has no result backend", f"set its result_backend, such as {_EXAMPLE}")
    scheme, separator, _ = str(backend).partition("://")
    if separator and scheme.lower().startswith(_OURS):
        return None
    # what is no URL may be a class, or its name
    kind = scheme.lower() if separator else str(backend)
    shown = redact(f"{kind}://" if separator else kind)
    seen = f"the app's result_backend is {shown}, which is not rootcellar"
    return wrong("backend-not-rootcellar", seen, _instead(kind))


def _instead(kind: str) -> str:
    """Return what to write instead of a backend of Celery's."""
    system = kind.removeprefix("db+").removeprefix("database+").partition("+")[0]
    if system == "rpc":
        return "write rootcellar-rpc:// to check it, or choose a backend that keeps results: rootcellar+postgresql://…"
    if is_known(system):
        return (
            f"write rootcellar+{system}://… instead of {kind}://…; `rootcellar check {system}://…` looks at the server"
        )
    return "choose a store of rootcellar, such as rootcellar+postgresql://… or rootcellar+redis://…"


def is_known_url(url: str) -> bool:
    """Tell whether there is a store or a broker that a URL can be one of."""
    scheme = url.removeprefix("rootcellar+").partition("://")[0].partition("+")[0].lower()
    return scheme in _BROKER_SCHEMES or is_known(scheme) or scheme in schemes()


def from_url(url: str, processes: int | None) -> list[Checks]:
    """Return the checks of a store by its URL; ``amqp://`` is a broker's."""
    if url.partition("://")[0].lower() in _BROKER_SCHEMES:
        return _sections({"broker_url": url}, BROKER, processes)
    return _sections({"result_backend": f"rootcellar+{url.removeprefix('rootcellar+')}"}, None, processes)


def _sections(conf: dict[str, Any], name: str | None, processes: int | None) -> list[Checks]:
    for name_in_environment in READ_BY_CELERY:
        # Celery would take these for what is checked
        os.environ.pop(name_in_environment, None)
    target = target_of(conf, processes)
    broker = [broker_of(target)] if name in (BROKER, ALL) else []
    results = sections_for(target) if name != BROKER else []
    if name == ALL and len(results) > 1 and results[0].where == broker[0].where:
        # with rpc the broker is looked at for the results' sake
        results = results[1:]
    return [*broker, *results]


def broken(exc: Exception) -> list[Checks]:
    """Return the checks of settings with which something went wrong that nobody thought of."""
    return [Notification([found_in(exc)], "the settings")]
