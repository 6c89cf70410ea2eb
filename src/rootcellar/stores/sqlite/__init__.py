"""The store in one SQLite file, for development and for one machine."""

from rootcellar.stores.sqlite.store import SQLiteStore

__all__ = ["SQLiteStore"]
