"""The store of Foo, which is SQLite under another name."""

from __future__ import annotations

import foo_driver  # noqa: F401

from rootcellar.stores import StoreOptions
from rootcellar.stores.sqlite import SQLiteStore


class FooStore(SQLiteStore):
    """The store for ``rootcellar+foo:///path``."""

    def __init__(self, url: str, options: StoreOptions | None = None) -> None:
        own = options.section("foo") if options else {}
        self.is_slow = own.get("is_slow", False)
        super().__init__(f"sqlite:///{url.rpartition('@')[2].removeprefix('foo://').removeprefix('/')}", options)
