"""Reports the fields of records that cannot be read."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from rootcellar.cli.output import visible
from rootcellar.cli.values import unreadable_fields
from rootcellar.records import TaskRecord


def print_damage(records: Iterable[TaskRecord]) -> None:
    """Print the damaged fields of each record on standard error."""
    for text in filter(None, map(unreadable_fields, records)):
        print(f"rootcellar: {visible(text)}", file=sys.stderr)
