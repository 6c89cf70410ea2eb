"""Reads dates that the server can store and Python cannot: -infinity, infinity, and other centuries."""

from __future__ import annotations

from datetime import datetime

import psycopg
from psycopg.abc import Buffer
from psycopg.types.datetime import TimestampLoader, TimestamptzLoader

from rootcellar.stores.fields import EARLIEST, LATEST


def read_all_moments(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Make a connection read a date outside Python's range as the first or last date, so that no query fails."""
    connection.adapters.register_loader("timestamptz", _WithZone)
    connection.adapters.register_loader("timestamp", _WithoutZone)


class _WithZone(TimestamptzLoader):
    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data)
        except psycopg.DataError:
            return _nearest(data)


class _WithoutZone(TimestampLoader):
    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data)
        except psycopg.DataError:
            return _nearest(data).replace(tzinfo=None)


def _nearest(data: Buffer) -> datetime:
    text = bytes(data)
    return EARLIEST if text.startswith(b"-") or text.endswith(b"BC") else LATEST
