"""Celery's result API works over every store of ours, with real workers and brokers; see tests/conformance."""

from __future__ import annotations

from tests.conformance.backend import *  # noqa: F403
from tests.conformance.registered import COMBINATIONS

__all__ = ["COMBINATIONS"]
