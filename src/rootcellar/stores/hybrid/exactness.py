"""Checks whether a record that is stored in SQL is read back unchanged."""

from __future__ import annotations

import re
from dataclasses import fields

from rootcellar.records import TaskRecord

_ODD = re.compile("[\x00\ud800-\udfff]")


def survives_round_trip(record: TaskRecord) -> bool:
    """Return whether the durable store keeps the texts of a record unchanged. It may store NUL as an escape."""
    texts = [text for field in fields(record) if isinstance(text := getattr(record, field.name), str)]
    return not any(_ODD.search(text) for text in texts)
