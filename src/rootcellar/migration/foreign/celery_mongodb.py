"""Celery's own MongoDB backend: ``celery+mongodb://…``, as the source or the target of a copy.

rootcellar uses Celery's documents, so the store for MongoDB does the work. As a source, values of all serializers
become JSON. As a target, every value becomes plain JSON, which Celery's clients read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rootcellar.errors import AbilityMissing
from rootcellar.migration.endpoint import Endpoint, Spec, store_endpoint
from rootcellar.migration.foreign.celery_redis import PREFIX
from rootcellar.migration.foreign.layouts import PlainLayout, Read
from rootcellar.migration.foreign.values import Values
from rootcellar.records import GroupRecord, TaskRecord
from rootcellar.stores import Store, open_store
from rootcellar.stores.mongodb.streaming import MongoStream
from rootcellar.stores.streaming import Streamed


def open_mongodb(spec: Spec) -> Endpoint:
    """Open a MongoDB in which Celery's own backend keeps results.

    Raises:
        ConfigurationError: the URL cannot be used.
        DriverMissing: a Python package is not installed.
    """
    store = open_store(spec.text.removeprefix(PREFIX), spec.options)
    end = store_endpoint(store)
    values = Values(spec.allow_pickle, has_yaml=True)
    stream = store.ability(Streamed)
    if not isinstance(stream, MongoStream):
        raise AbilityMissing("this store has none of Celery's documents", where=end.where, remedy="name a MongoDB")
    read = Read(stream, _Lookup(store, stream), values.task, values.group_of_ids)
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


@dataclass(frozen=True, slots=True)
class _Lookup:
    store: Store
    stream: MongoStream

    def get_many(self, task_ids: Iterable[str]) -> Mapping[str, TaskRecord]:
        return self.store.get_many(task_ids)

    def get_group(self, group_id: str) -> GroupRecord | None:
        # the store would refuse a group that is not JSON
        return self.stream.get_group(group_id)
