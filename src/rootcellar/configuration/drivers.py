"""Checks that the Python packages for the chosen broker and backend are installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from kombu.transport import get_transport_cls

from rootcellar.descriptions import backend_of_scheme


def missing_drivers(conf: Mapping[str, Any]) -> Iterator[str]:
    """Yield a problem for each package that Celery's configuration needs but that is not installed."""
    options = conf.get("result_backend_transport_options") or {}
    urls = {
        "CELERY_RESULT_BACKEND": (conf.get("result_backend"), options.get("durable_url"), options.get("cache_url")),
        "ROOTCELLAR_MIGRATION": (options.get("migrate_to"),),
        "CELERY_BROKER": (conf.get("broker_url"),),
    }
    missing = set()
    for variable, named in urls.items():
        for url in filter(None, named):
            backend = backend_of_scheme(str(url).removeprefix("rootcellar+").partition("://")[0])
            # the parent of a module that is missing cannot be searched
            module = backend.driver.partition(".")[0] if backend else ""
            if backend and module and module not in missing and find_spec(module) is None:
                missing.add(module)
                yield _missing(variable, module, backend.installed_by)
    # without the driver, kombu fails in many ways
    if not missing:
        yield from _broker_problem(str(conf.get("broker_url") or ""))


def _broker_problem(url: str) -> Iterator[str]:
    """Yield a problem for a package that kombu needs for a broker, besides the driver itself."""
    scheme = url.partition("://")[0].partition("+")[0]
    try:
        if scheme:
            get_transport_cls(scheme)
    except ModuleNotFoundError as exc:
        yield _missing("CELERY_BROKER", str(exc.name).partition(".")[0], f"celery[{scheme}]")


def _missing(variable: str, module: str, package: str) -> str:
    return f"{variable}: the Python package {module} is not installed: pip install '{package}'"
