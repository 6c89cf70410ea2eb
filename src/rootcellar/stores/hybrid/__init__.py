"""A store made of two: a cache in front of a durable store."""

from rootcellar.stores.hybrid.store import HybridStore

__all__ = ["HybridStore"]
