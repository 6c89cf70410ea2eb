"""The moments that travel in headers, which anybody may have written."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from rootcellar.process import read_moment

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        (NOON.isoformat(), NOON),
        ("2026-01-01T13:00:00+01:00", NOON.astimezone(timezone(timedelta(hours=1)))),
        ("2026-01-01T12:00:00", NOON),
        (NOON.replace(tzinfo=None), NOON),
        (None, None),
        (12, None),
        ("noon", None),
    ],
)
def test_it_is_aware_or_none(value: object, moment: datetime | None) -> None:
    assert read_moment(value) == moment
