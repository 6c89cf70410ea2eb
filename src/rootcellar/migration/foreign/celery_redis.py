"""Celery's own Redis backend: ``celery+redis://…``, as the source or the target of a copy.

rootcellar uses Celery's keys and its JSON, so the store for Redis does the work. As a source, records in other
serializers are read too. As a target, every value becomes plain JSON, which Celery's clients read.
"""

from __future__ import annotations

from rootcellar.errors import AbilityMissing
from rootcellar.migration.endpoint import Endpoint, Spec, store_endpoint
from rootcellar.migration.foreign.layouts import PlainLayout, Read
from rootcellar.migration.foreign.values import Values
from rootcellar.stores import open_store
from rootcellar.stores.redis.streaming import RedisStream
from rootcellar.stores.streaming import Streamed

#: what stands before the URL
PREFIX = "celery+"


def open_redis(spec: Spec) -> Endpoint:
    """Open a Redis in which Celery's own backend keeps results.

    Raises:
        ConfigurationError: the URL cannot be used.
        DriverMissing: a Python package is not installed.
    """
    store = open_store(spec.text.removeprefix(PREFIX), spec.options)
    end = store_endpoint(store)
    stream = store.ability(Streamed)
    if not isinstance(stream, RedisStream):
        raise AbilityMissing("this store has none of Celery's keys", where=end.where, remedy="name a Redis")
    values = Values(spec.allow_pickle)
    read = Read(stream, stream, values.whole_task, values.whole_group)
    # its shared values stay unused: nothing but results is stored there
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
