"""Deletes files of the archive whose results have all expired, every six hours in a worker that names an archive."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from rootcellar.maintenance.service import Retries, Service, check_seconds
from rootcellar.payloads import Codec
from rootcellar.stores.base import Store
from rootcellar.stores.holding import Holding
from rootcellar.stores.jobs import recorded

if TYPE_CHECKING:
    from rootcellar.archive.expiring import Expired
    from rootcellar.archive.reading import Archive

#: the name of the job on record
JOB = "archive expiry"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveExpiryConfig:
    """How often expired files are looked for.

    Attributes:
        archive_expiry_interval: seconds between two runs. A run reads the list of the files, and a file only if there
            are holds.

    Raises:
        ConfigurationError: the interval is not a number of seconds.
    """

    archive_expiry_interval: float = 21_600.0

    def __post_init__(self) -> None:
        check_seconds(self.archive_expiry_interval, "archive_expiry_interval", least=0.01)


class ArchiveExpiry(Service):
    """Deletes expired files, and what killed runs left of files. One process does so.

    Args:
        archive: the archive.
        store: the store of the results, with the holds.
        codec: opens values that the filters of holds ask for.
        config: how often.
    """

    name = "archive-expiry"
    action = "delete expired files of the archive (they stay until the next run)"
    is_single = True

    def __init__(self, archive: Archive, store: Store, codec: Codec, config: ArchiveExpiryConfig | None = None) -> None:
        super().__init__(retries=Retries(first=1.0, longest=60.0))
        self._archive = archive
        self._store = store
        self._codec = codec
        self._config = config or ArchiveExpiryConfig()

    def run_once(self) -> int:
        return self.expire().files

    def expire(self) -> Expired:
        """Delete what has expired now; return what was done.

        Raises:
            StoreError: the store or the place cannot be used.
        """
        # imported late: a worker needs it a few times a day
        from rootcellar.archive.expiring import delete_remains, expire
        from rootcellar.history.holds import Holds

        now = datetime.now(timezone.utc)
        with recorded(self._store, JOB) as run:
            holds, holding = Holds(self._store, self._codec), self._store.ability(Holding)
            done = expire(self._archive, holds, holding, now, go_on=self.continue_run)
            delete_remains(self._archive.manifest, self._archive.place, now)
            run.done, run.note = done.rows, done.sentence()
        return done

    def pause_after(self, done: int) -> float:
        return self._config.archive_expiry_interval

    @property
    def first_pause(self) -> float:
        return min(60.0, self._config.archive_expiry_interval)
