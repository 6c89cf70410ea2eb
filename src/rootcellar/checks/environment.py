"""What to check, as the environment, an app or a URL says it."""

from __future__ import annotations

import os
from typing import Any

import rootcellar
from rootcellar.checks.choosing import Refused, broker_of, sections_for
from rootcellar.checks.findings import Finding
from rootcellar.checks.steps import Checks, failed, wrong
from rootcellar.checks.target import target_of
from rootcellar.configuration.choices import BACKENDS, SYNONYMS
from rootcellar.configuration.reading import DEFAULT_FILE
from rootcellar.configuration.settings import READ_BY_CELERY
from rootcellar.errors import RootcellarError, SettingsWrong

#: what may be checked by name, beside a URL and the backends
BROKER, ALL = "broker", "all"
_BACKEND_VARIABLE = "CELERY_RESULT_BACKEND"
#: schemes of URLs that only a broker has
_BROKER_SCHEMES = ("amqp", "amqps", "pyamqp")


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
        return [Refused([wrong("settings-wrong", problem) for problem in exc.problems], "environment, .env")]
    return _sections(dict(conf), name, processes)


def from_app(app: Any, name: str | None, processes: int | None) -> list[Checks]:
    """Return the checks of what an app's settings say; ``name`` is ``broker``, ``all``, or ``None`` for its results."""
    conf = dict(app.conf.table(with_defaults=False, censored=False))
    given = {key: app.conf[key] for key in ("result_backend", "broker_url") if app.conf[key]}
    return _sections({**conf, **given}, name, processes)


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


def refused(exc: RootcellarError, where: str) -> list[Checks]:
    """Return the checks of settings that cannot be used at all."""
    problems: list[Finding] = [failed(exc)]
    return [Refused(problems, where)]
