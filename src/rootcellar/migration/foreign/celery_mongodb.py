"""Celery's own MongoDB backend: ``celery+mongodb://…``, as the source or the target of a copy.

rootcellar uses Celery's documents, so the store for MongoDB does the work. As a source, values of all serializers
become JSON. As a target, every value becomes plain JSON, which Celery's clients read.
"""

from __future__ import annotations

from rootcellar.migration.endpoint import Endpoint, Spec, store_endpoint
from rootcellar.migration.foreign.celery_redis import PREFIX
from rootcellar.migration.foreign.layouts import PlainLayout, Read
from rootcellar.migration.foreign.values import Values
from rootcellar.stores import open_store


def open_mongodb(spec: Spec) -> Endpoint:
    """Open a MongoDB in which Celery's own backend keeps results.

    Raises:
        ConfigurationError: the URL cannot be used.
        DriverMissing: a Python package is not installed.
    """
    store = open_store(spec.text.removeprefix(PREFIX), spec.options)
    end = store_endpoint(store)
    values = Values(spec.allow_pickle)
    read = Read(end.to_read, store, values.task, values.group_of_ids)
    return Endpoint(
        name=end.name,
        where=f"Celery's {end.where}",
        source=read.source,
        target=end.target,
        lookup=read.lookup,
        mirrored=end.mirrored,
        layout=PlainLayout(),
        at_once=end.at_once,
        close=end.close,
    )
