"""Dates in headers, which may be invalid, and dates in rows."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from rootcellar.stores.fields import EARLIEST, LATEST, clamped, moment_of

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        (NOON.isoformat(), NOON),
        ("2026-01-01T13:00:00+01:00", NOON),
        ("2026-01-01T12:00:00", NOON),
        (NOON.replace(tzinfo=None), NOON),
        (None, None),
        (12, None),
        ("noon", None),
        ([NOON.isoformat()], None),
        ({"__type__": "datetime"}, None),
        # neither a server nor Python can represent these in UTC
        ("0001-01-01T00:00:00+14:00", EARLIEST),
        ("9999-12-31T23:59:59.999999-14:00", LATEST),
        # Python can, servers cannot
        ("0001-01-01T00:00:00", EARLIEST),
        ("0999-12-31T23:59:59+00:00", EARLIEST),
        ("9999-12-31T23:59:59.999999", LATEST),
    ],
)
def test_header_date_is_storable_or_none(value: object, moment: datetime | None) -> None:
    found = moment_of(value)
    assert found == moment
    assert found is None or found.tzinfo is timezone.utc


@pytest.mark.parametrize("hours", [-14, 0, 14])
def test_clamped_date_is_unchanged_if_every_store_holds_it(hours: int) -> None:
    zone = timezone(timedelta(hours=hours))
    for year in (1001, 1970, 2026, 9998):
        moment = datetime(year, 6, 1, 12, 30, 1, 5, tzinfo=zone)
        assert clamped(moment) == moment
