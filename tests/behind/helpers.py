"""Helpers of the tests of write-behind."""

from __future__ import annotations

from typing import Any

from rootcellar.stores import StoreOptions, open_store
from rootcellar.stores.hybrid import WriteBehindStore


def open_behind(durable_url: str, cache_url: str, **options: Any) -> WriteBehindStore:
    given = {"durable_url": durable_url, "cache_url": cache_url, "mode": "write-behind", **options}
    store = open_store("hybrid://", StoreOptions(transport_options=given))
    assert isinstance(store, WriteBehindStore)
    return store
