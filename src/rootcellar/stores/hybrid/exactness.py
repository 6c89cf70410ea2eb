"""Whether what is stored in SQL is read as it was given."""

from __future__ import annotations

import re
from dataclasses import fields

from rootcellar.records import TaskRecord

_ODD = re.compile("[\x00\ud800-\udfff]")


def survives_round_trip(record: TaskRecord) -> bool:
    """Tell whether the durable store has the texts of a record as they were given: it may write NUL as an escape."""
    texts = [text for field in fields(record) if isinstance(text := getattr(record, field.name), str)]
    return not any(_ODD.search(text) for text in texts)
