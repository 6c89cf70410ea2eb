"""What the model fixes: the clocks of the stores stand still, and no thread is begun."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import pytest

from rootcellar.migration import passes
from rootcellar.stores.dual import mirror_breaker, verbs
from rootcellar.testing import memory
from tests.migration.model.passes import read_at_once
from tests.migration.model.records import NOW


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make each run of some code the same."""
    monkeypatch.setattr(verbs, "time", time)  # a run replaces it
    monkeypatch.setattr(memory, "_now", lambda: NOW)
    monkeypatch.setattr(memory, "time", _StoppedClock)
    monkeypatch.setattr(mirror_breaker, "start_thread", lambda work, name: None)
    monkeypatch.setattr(passes, "read_ahead", read_at_once)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class _StoppedClock:
    @staticmethod
    def monotonic() -> float:
        return 0.0
