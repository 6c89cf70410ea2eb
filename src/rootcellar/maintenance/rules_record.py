"""Puts the rules of a worker on record, so that no other process deletes what they archive."""

from __future__ import annotations

from rootcellar.maintenance.service import Service
from rootcellar.retention.on_record import put_on_record
from rootcellar.retention.policy import Retention
from rootcellar.stores.base import Store

#: seconds between two times
INTERVAL = 3_600.0


class RulesRecord(Service):
    """Puts rules on record when the worker starts, and then every hour. Every worker does, because each has its own.

    Args:
        store: the store.
        retention: the worker's rules.
    """

    name = "rules"
    action = "put the rules that archive on record (another application's cleanup may delete what they archive)"

    def __init__(self, store: Store, retention: Retention) -> None:
        super().__init__()
        self._store = store
        self._retention = retention

    def run_once(self) -> int:
        """Put the rules on record."""
        return int(put_on_record(self._store, self._retention))

    def pause_after(self, done: int) -> float:
        return INTERVAL
