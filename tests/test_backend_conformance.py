"""Celery's result API works over every store, with real workers and brokers; see tests/conformance."""

from __future__ import annotations

from rootcellar.testing.suites.backend import *  # noqa: F403
from tests.conformance.registered import WORKERS


def test_every_shared_store_runs_the_whole_suite() -> None:
    assert len(set(map(str, WORKERS))) == len(WORKERS)
    for store in {one.store for one in WORKERS if one.store.shared}:
        assert [one for one in WORKERS if one.store == store and not one.essentials_only], store
