"""The archive of a result backend. Imported only by a process that names one."""

from __future__ import annotations

from rootcellar.archive.places import SETTING, open_place
from rootcellar.archive.reading import Archive
from rootcellar.errors import ConfigurationError
from rootcellar.maintenance.archive import Archive as ArchiveService
from rootcellar.maintenance.archive import ArchiveConfig, ArchiveWork
from rootcellar.maintenance.archive_expiry import ArchiveExpiry
from rootcellar.maintenance.service import Service
from rootcellar.payloads import Codec
from rootcellar.retention.policy import Retention
from rootcellar.stores import Store
from rootcellar.stores.archiving import Manifest


def archive_of(url: str, store: Store, where: str = SETTING) -> Archive:
    """Return the archive at a place, whose manifest is in a store.

    Args:
        url: the place of the files: a folder, or a URL of fsspec.
        store: the store of the results.
        where: the setting that names the place.

    Raises:
        ConfigurationError: the place cannot be used, or the store has no manifest.
        DriverMissing: fsspec is not installed.
    """
    manifest = store.ability(Manifest)
    if manifest is None:
        raise ConfigurationError(
            "this store has no manifest, so it does not know which results are archived",
            where=where,
            remedy="remove the setting, and read the files with `rootcellar show ID --archive URL`; or keep results in "
            "PostgreSQL, MySQL, MariaDB or SQLite, alone or behind Redis",
        )
    return Archive(manifest, open_place(url))


def services_of(archive: Archive, store: Store, codec: Codec, retention: Retention, interval: float) -> list[Service]:
    """Return the services of a worker for its archive: what archives by the rules, and what deletes expired files.

    Args:
        archive: the archive that the settings name.
        store, codec, retention: those of the backend.
        interval: seconds between two runs of the first one.
    """
    expiry = ArchiveExpiry(archive, store, codec)
    if retention.archiving() is None:
        return [expiry]
    work = ArchiveWork(store=store, codec=codec, retention=retention, place=lambda: archive.place)
    return [ArchiveService(work, ArchiveConfig(archive_interval=interval)), expiry]
