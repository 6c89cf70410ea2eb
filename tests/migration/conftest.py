"""What all tests of migrations share."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from tests.migration import coordinating


@pytest.fixture(autouse=True)
def begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the time of the test's records: this file was imported when the whole run began."""
    monkeypatch.setattr(coordinating, "NOW", datetime.now(timezone.utc))
