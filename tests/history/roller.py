"""A process that brings the counts of a store up to date, again and again, and prints a line after each pass."""

from __future__ import annotations

import sys
from datetime import timedelta

from rootcellar.stores import open_store
from rootcellar.stores.counting import Counted
from rootcellar.stores.sql import by_date

if __name__ == "__main__":
    by_date.RECOUNT_INTERVAL = timedelta(0)
    counted = open_store(sys.argv[1]).ability(Counted)
    assert counted is not None
    while True:
        counted.roll(budget=0.01)
        print("rolled", flush=True)
