"""Finds what to check: from the environment, an app or a URL."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import rootcellar
from rootcellar.checks.choosing import FixedFindings, broker_of, sections_for
from rootcellar.checks.findings import Finding
from rootcellar.checks.retention import rules_of
from rootcellar.checks.steps import Checks, found_in, problem
from rootcellar.checks.target import target_of
from rootcellar.configuration.celery_names import setting_of
from rootcellar.configuration.choices import AMQP_SCHEMES, broker_name
from rootcellar.configuration.reading import DEFAULT_FILE
from rootcellar.configuration.settings import READ_BY_CELERY
from rootcellar.descriptions import backend_names, backend_of_name, backend_of_scheme
from rootcellar.errors import SettingsWrong
from rootcellar.stores import schemes
from rootcellar.urls import redact

#: names that can be checked besides URLs and backends
BROKER, ALL = "broker", "all"
_BACKEND_VARIABLE = "CELERY_RESULT_BACKEND"
#: an example URL for messages
_EXAMPLE = "rootcellar+postgresql://user:password@host/database"
#: prefixes of the URL of a rootcellar result backend
_OUR_SCHEMES = ("rootcellar+", "rootcellar-rpc")


def name_of(text: str) -> str | None:
    """Return the usual form of a name, or ``None`` if nothing of that name can be checked."""
    name = text.lower()
    backend = backend_of_name(name)
    if backend is not None:
        return backend.name
    name = BROKER if broker_name(name) == "rabbitmq" else name
    return name if name in (BROKER, ALL) else None


def from_environment(name: str | None, processes: int | None, env_file: str = DEFAULT_FILE) -> list[Checks]:
    """Return the checks for the settings in the environment and ``.env``.

    Args:
        name: a kind of backend, which replaces the value of ``CELERY_RESULT_BACKEND``; or ``broker``, ``all``, or
            ``None`` for the result backend.
        processes: how many processes use it.
        env_file: the file of variables.
    """
    if name in backend_names():
        os.environ[_BACKEND_VARIABLE] = str(name)
    elif name == BROKER:
        # the result backend is not checked, so any value is correct
        os.environ[_BACKEND_VARIABLE] = "sqlite"
    try:
        conf = rootcellar.settings(env_file, broker=_needs_broker(name))
    except SettingsWrong as exc:
        problems = [problem("settings-wrong", text) for text in exc.problems]
        return [FixedFindings([*problems, *_warning_findings(exc.warnings)], exc.where)]
    doubts = _warning_findings(conf.warnings)
    return [*([FixedFindings(doubts, "environment")] if doubts else []), *_sections(dict(conf), name, processes)]


def _needs_broker(name: str | None) -> bool:
    backend = backend_of_name(name or "")
    return name in (BROKER, ALL) or (backend is not None and bool(backend.broker))


def _warning_findings(warnings: Sequence[str]) -> list[Finding]:
    return [problem("settings-doubtful", text) for text in warnings]


def from_app(app: Any, name: str | None, processes: int | None) -> list[Checks]:
    """Return the checks for an app's settings. ``name`` is ``broker``, ``all``, or ``None`` for its result backend."""
    conf = settings_of(app)
    finding = None if name == BROKER else not_rootcellar(conf.get("result_backend"))
    if finding is None:
        return _sections(conf, name, processes)
    results = FixedFindings([finding], f"results of {app.main or 'the app'}")
    return [*(_sections(conf, BROKER, processes) if name == ALL else []), results]


def settings_of(app: Any) -> dict[str, Any]:
    """Return the settings of an app under Celery's lower-case names, without Celery's defaults.

    Celery also accepts a prefix (``namespace="CELERY"``) and its old upper-case names. Other settings in the same
    place, such as Django's own, are left out.
    """
    conf = app.conf
    # reading any value makes Celery load the configuration
    conf.get("result_backend")
    names = {setting_of(str(key), conf.prefix or "") for key in list(conf.without_defaults())}
    found = {name: conf.get(name) for name in names if name and not hasattr(dict, name)}
    # for these two, Celery's environment variables take precedence over the configuration
    given = {"result_backend": conf.result_backend, "broker_url": conf.broker_url}
    return {**found, **{name: value for name, value in given.items() if value}}


def not_rootcellar(backend: Any) -> Finding | None:
    """Return the finding for a result backend that is not rootcellar's, or ``None`` if it is rootcellar's.

    Args:
        backend: Celery's setting ``result_backend``: a URL, a name or a class.
    """
    if not backend or backend == "disabled" or str(backend).startswith("disabled://"):
        return problem(
            "backend-missing", "the app has no result backend", f"set its result_backend, such as {_EXAMPLE}"
        )
    scheme, separator, _ = str(backend).partition("://")
    if separator and scheme.lower().startswith(_OUR_SCHEMES):
        return None
    # if it is not a URL, it is a class or the name of a class
    kind = scheme.lower() if separator else str(backend)
    shown = redact(f"{kind}://" if separator else kind)
    seen = f"the app's result_backend is {shown}, which is not rootcellar"
    return problem("backend-not-rootcellar", seen, _instead(kind))


def _instead(kind: str) -> str:
    """Return what to write instead of one of Celery's backends."""
    system = kind.removeprefix("db+").removeprefix("database+").partition("+")[0]
    backend = backend_of_scheme(system)
    if backend is not None and not backend.keeps_results:
        return "write rootcellar-rpc:// to check it, or choose a backend that keeps results: rootcellar+postgresql://…"
    if backend is not None:
        return f"write rootcellar+{system}://… instead of {kind}://…; `rootcellar check {system}://…` checks the server"
    return "choose a store of rootcellar, such as rootcellar+postgresql://… or rootcellar+redis://…"


def is_known_url(url: str) -> bool:
    """Return True if the scheme of a URL belongs to a known store or broker."""
    scheme = url.removeprefix("rootcellar+").partition("://")[0].partition("+")[0].lower()
    return scheme in AMQP_SCHEMES or backend_of_scheme(scheme) is not None or scheme in schemes()


def from_url(url: str, processes: int | None) -> list[Checks]:
    """Return the checks for the store or the broker of a URL."""
    if url.partition("://")[0].lower() in AMQP_SCHEMES:
        return _sections({"broker_url": url}, BROKER, processes)
    return _sections({"result_backend": f"rootcellar+{url.removeprefix('rootcellar+')}"}, None, processes)


def _sections(conf: dict[str, Any], name: str | None, processes: int | None) -> list[Checks]:
    for name_in_environment in READ_BY_CELERY:
        # Celery would use these variables instead of the settings to check
        os.environ.pop(name_in_environment, None)
    target = target_of(conf, processes)
    broker = [broker_of(target)] if name in (BROKER, ALL) else []
    rules = list(rules_of(conf)) if name != BROKER else []
    results = sections_for(target) if name != BROKER else []
    if name == ALL and len(results) > 1 and results[0].where == broker[0].where:
        # with rpc, the broker is checked already as part of the result backend
        results = results[1:]
    return [*broker, *([FixedFindings(rules, "the rules of retention")] if rules else []), *results]


def findings_of_unexpected(exc: Exception) -> list[Checks]:
    """Return a check that reports an unexpected exception."""
    return [FixedFindings([found_in(exc)], "the settings")]
