"""A store made of two: a quick store in front of a durable one, written through it or filled behind it."""

from __future__ import annotations

from rootcellar.stores.base import Store, StoreOptions
from rootcellar.stores.hybrid.behind import WriteBehindStore
from rootcellar.stores.hybrid.settings import WRITE_BEHIND, read_settings
from rootcellar.stores.hybrid.store import HybridStore

__all__ = ["HybridStore", "WriteBehindStore", "open_hybrid"]


def open_hybrid(url: str, options: StoreOptions | None = None) -> Store:
    """Return the store for ``rootcellar+hybrid://``, of the mode that its options or its URL name.

    Raises:
        ConfigurationError: something is missing, or cannot be used.
    """
    settings = read_settings(url, options or StoreOptions())
    return (WriteBehindStore if settings.mode == WRITE_BEHIND else HybridStore)(url, options)
