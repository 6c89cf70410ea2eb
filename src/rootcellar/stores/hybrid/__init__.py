"""A store that consists of a fast store and a durable one, in the mode write-through or write-behind."""

from __future__ import annotations

from rootcellar.stores.base import Store, StoreOptions
from rootcellar.stores.hybrid.behind import WriteBehindStore
from rootcellar.stores.hybrid.settings import WRITE_BEHIND, read_settings
from rootcellar.stores.hybrid.store import HybridStore

__all__ = ["HybridStore", "WriteBehindStore", "open_hybrid"]


def open_hybrid(url: str, options: StoreOptions | None = None) -> Store:
    """Return the store for ``rootcellar+hybrid://``, in the mode that its options or its URL name.

    Raises:
        ConfigurationError: a setting is missing, or cannot be used.
    """
    settings = read_settings(url, options or StoreOptions())
    return (WriteBehindStore if settings.mode == WRITE_BEHIND else HybridStore)(url, options)
