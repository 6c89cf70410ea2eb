"""Checks that the Python packages for the chosen broker and backend are installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from kombu.transport import get_transport_cls

#: the first part of a URL's scheme -> the module of the driver, and the package that installs it
_DRIVERS: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(("postgresql", "postgres"), ("psycopg", "rootcellar[postgres]")),
    **dict.fromkeys(("mysql", "mariadb"), ("pymysql", "rootcellar[mysql]")),
    **dict.fromkeys(
        ("redis", "rediss", "sentinel", "unix", "socket", "redis-cluster", "rediss-cluster"),
        ("redis", "rootcellar[redis]"),
    ),
    "mongodb": ("pymongo", "rootcellar[mongodb]"),
}


def missing_drivers(conf: Mapping[str, Any]) -> Iterator[str]:
    """Yield a problem for each package that Celery's configuration needs but that is not installed."""
    options = conf.get("result_backend_transport_options") or {}
    urls = {
        "CELERY_RESULT_BACKEND": (conf.get("result_backend"), options.get("durable_url"), options.get("cache_url")),
        "CELERY_BROKER": (conf.get("broker_url"),),
    }
    told = set()
    for variable, named in urls.items():
        for url in filter(None, named):
            scheme = str(url).removeprefix("rootcellar+").partition("://")[0].partition("+")[0].lower()
            module, extra = _DRIVERS.get(scheme, ("", ""))
            if module and module not in told and find_spec(module) is None:
                told.add(module)
                yield _missing(variable, module, extra)
    # without the driver, kombu fails in many ways
    if not told:
        yield from _broker_problem(str(conf.get("broker_url") or ""))


def _broker_problem(url: str) -> Iterator[str]:
    """Yield a problem for a package that kombu needs for a broker, besides the driver itself."""
    scheme = url.partition("://")[0].partition("+")[0]
    try:
        if scheme:
            get_transport_cls(scheme)
    except ModuleNotFoundError as exc:
        yield _missing("CELERY_BROKER", str(exc.name).partition(".")[0], f"celery[{scheme}]")


def _missing(variable: str, module: str, extra: str) -> str:
    return f"{variable}: the Python package {module} is not installed: pip install '{extra}'"
