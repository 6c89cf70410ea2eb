"""Opens an end of a copy: a store of rootcellar, a folder or file of Parquet, or another system of results."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from rootcellar.migration.endpoint import Endpoint, Spec, store_endpoint
from rootcellar.stores import open_store

#: the beginning of the URL of another system -> the function that opens it, as ``module:name``; the longest one counts
FOREIGN: dict[str, str] = {
    "celery+redis": "rootcellar.migration.foreign.celery_redis:open_redis",
    "celery+sentinel": "rootcellar.migration.foreign.celery_redis:open_redis",
    "celery+mongodb": "rootcellar.migration.foreign.celery_mongodb:open_mongodb",
    "db+": "rootcellar.migration.foreign.celery_tables:open_tables",
    "django-db+": "rootcellar.migration.foreign.django_results:open_tables",
}
#: the beginning of a folder or file of Parquet whose name does not show what it is
PARQUET = "parquet:"


def open_endpoint(spec: Spec) -> Endpoint:
    """Open one end of a copy. Stores connect at their first use.

    Raises:
        ConfigurationError: the text is no URL of a store, no other system, and no file or folder of Parquet.
        DriverMissing: a Python package is not installed.
    """
    for begin in sorted(FOREIGN, key=len, reverse=True):
        if spec.text.startswith(begin):
            module, _, name = FOREIGN[begin].partition(":")
            opener: Callable[[Spec], Endpoint] = getattr(import_module(module), name)
            return opener(spec)
    if is_parquet(spec.text):
        # imported late: pyarrow is large
        from rootcellar.migration.parquet import parquet_endpoint

        return parquet_endpoint(Path(spec.text.removeprefix(PARQUET)))
    return store_endpoint(open_store(spec.text, spec.options))


def is_parquet(text: str) -> bool:
    """Return whether a text names a folder or file of Parquet: it is no URL, and ends so, or is a path."""
    if text.startswith(PARQUET):
        return True
    return "://" not in text and (text.endswith(".parquet") or "/" in text or Path(text).is_dir())
