"""Cleans up a store in small batches, and says how far it is: ``python -m tests.apps.cleaning URL ROWS_IN_A_BATCH``."""

from __future__ import annotations

import sys

from rootcellar.maintenance.cleaned import Cleaned
from rootcellar.maintenance.cleanup import Cleanup, CleanupConfig, CleanupWork
from rootcellar.payloads import codec_of
from rootcellar.stores import open_store


def tell(cleaned: Cleaned) -> None:
    print(cleaned.tasks, flush=True)


if __name__ == "__main__":
    store = open_store(sys.argv[1])
    config = CleanupConfig(batch=int(sys.argv[2]), least_batch=1)
    Cleanup(CleanupWork.of(store, codec_of({}), {}), config, tell).clean()
