"""Checks a SQLite file."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

from rootcellar import errors
from rootcellar.backend import ResultBackend
from rootcellar.checks.cleaning import cleaning_of
from rootcellar.checks.findings import Finding
from rootcellar.checks.holds import unreadable_holds
from rootcellar.checks.steps import Checks, Step, passed, problem
from rootcellar.checks.target import Target
from rootcellar.checks.trial import Trial
from rootcellar.checks.upkeep import upkeep_of
from rootcellar.stores.sqlite import SQLiteStore, driver

#: timeout for the lock of the file
_LOCK_TIMEOUT_SECONDS = 1.0
#: less free disk space is a warning
_MIN_FREE_BYTES = 100 << 20
_NETWORK_DISKS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "glusterfs", "ceph", "afs"}
_MAGIC = b"SQLite format 3\0"
_FILE_SUFFIXES = ("", "-wal", "-shm", "-journal")


class SQLiteChecks(Checks):
    """Checks a SQLite file. If it does not exist yet, a test file in the same folder is used."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._path = driver.database_path(target.url)
        self._test_path: Path | None = None
        self._trial = Trial(self._backend)

    @property
    def where(self) -> str:
        return f"sqlite {self._path}"

    def steps(self) -> Sequence[Step]:
        return [
            Step("folder", self._folder, stops_on_failure=True),
            Step("file", self._file, stops_on_failure=True),
            Step("lock", self._lock, stops_on_failure=True),
            Step("journal", self._journal, stops_on_failure=True),
            Step("schema", self._schema, stops_on_failure=True),
            Step("cleanup", self._cleanup),
            Step("upkeep", self._upkeep),
            *self._trial.steps(),
        ]

    def close(self) -> None:
        self._trial.close()
        if self._test_path is not None:
            for suffix in _FILE_SUFFIXES:
                with suppress(OSError):
                    Path(f"{self._test_path}{suffix}").unlink(missing_ok=True)

    def understand(self, exc: Exception) -> errors.RootcellarError | None:
        return driver.translate(exc, self._path) if isinstance(exc, sqlite3.Error) else None

    # -- steps

    def _folder(self) -> Iterator[Finding]:
        folder = self._path.absolute().parent
        if not folder.is_dir():
            yield problem("sqlite-no-folder", f"there is no folder {folder}", f"create the folder {folder}")
            return
        if not _is_writable(folder):
            yield problem("sqlite-read-only-folder", f"{folder} cannot be written")
            return
        disk = _file_system(folder)
        if disk in _NETWORK_DISKS:
            yield problem("sqlite-network-disk", f"{folder} is on {disk}")
        room = shutil.disk_usage(folder).free
        if room < _MIN_FREE_BYTES:
            yield problem("sqlite-little-room", f"{room >> 20} MB are free")
        else:
            yield passed(f"{folder}, {room / (1 << 30):.0f} GB free")

    def _file(self) -> Iterator[Finding]:
        if not self._path.exists():
            yield passed("none yet: the first use creates it; tried on a test file in the same folder")
            self._test_path = self._path.with_name(f"{self._path.name}.rootcellar-check-{uuid4().hex[:8]}")
            return
        try:
            with self._path.open("rb") as file:
                begins = file.read(len(_MAGIC))
        except OSError as exc:
            yield problem("sqlite-read-only-file", f"{self._path} cannot be read: {exc.strerror}")
            return
        if begins and begins != _MAGIC:
            yield problem("sqlite-not-a-database", f"{self._path} has other content")
            return
        closed = [f"{self._path}{end}" for end in _FILE_SUFFIXES if _is_inaccessible(Path(f"{self._path}{end}"))]
        if closed:
            yield problem("sqlite-read-only-file", f"{', '.join(closed)} cannot be written")
        else:
            yield passed(f"{self._path.stat().st_size / (1 << 20):.1f} MB, SQLite {sqlite3.sqlite_version}")

    def _lock(self) -> Iterator[Finding]:
        if self._test_path is not None:
            yield passed("the file does not exist yet")
            return
        with closing(sqlite3.connect(self._path, timeout=_LOCK_TIMEOUT_SECONDS, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
            except sqlite3.OperationalError as exc:
                if "locked" not in str(exc):
                    raise
                yield problem(
                    "sqlite-locked", f"another program has held the lock for more than {_LOCK_TIMEOUT_SECONDS:g} s"
                )
                return
        yield passed("free")

    def _journal(self) -> Iterator[Finding]:
        if self._test_path is None:
            with closing(sqlite3.connect(self._path, timeout=_LOCK_TIMEOUT_SECONDS)) as connection:
                (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
            if mode != "wal" and self._path.stat().st_size:
                # changing the mode would change the user's file
                yield passed(f"{mode}; the first use changes it to WAL")
                return
        with closing(driver.connect(self._test_path or self._path)) as connection:
            (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        yield passed("WAL") if mode == "wal" else problem("sqlite-no-wal", f"the journal is {mode}")

    def _schema(self) -> Iterator[Finding]:
        if self._test_path is not None and not self._target.options.create_tables:
            yield problem("schema-missing", "there is no file, and the settings forbid to create tables")
            return
        if self._test_path is not None:
            yield passed("none yet: the first use creates the tables")
            return
        store = SQLiteStore(self._target.url, self._target.options)
        with closing(store):
            yield from self._judge(store)

    def _upkeep(self) -> Iterator[Finding]:
        if self._test_path is not None:
            yield passed("nothing to look after yet")
            return
        with closing(SQLiteStore(self._target.url, self._target.options)) as store:
            yield from upkeep_of(store)

    def _judge(self, store: SQLiteStore) -> Iterator[Finding]:
        status = store.schema.status()
        may_make = store.options.create_tables
        if status.foreign:
            yield problem("foreign-tables", f"{' and '.join(status.foreign)} exists and is not rootcellar's")
        elif status.version > status.wanted:
            yield problem("schema-newer", f"version {status.version}, this release knows {status.wanted}")
        elif status.damaged:
            yield problem("schema-damaged", "; ".join(status.damaged), " ".join(status.repairs))
        elif status.version == status.wanted:
            yield passed(f"version {status.version}, {store.schema.tables['task']}")
            yield from unreadable_holds(store)
        elif not may_make:
            code = "schema-outdated" if status.version else "schema-missing"
            yield problem(code, f"version {status.version}, this release wants {status.wanted}")
        else:
            self._test_path = self._path.with_name(f"{self._path.name}.rootcellar-check-{uuid4().hex[:8]}")
            yield passed("the first use creates or upgrades the tables; tried on a test file in the same folder")

    def _cleanup(self) -> Iterator[Finding]:
        if self._test_path is not None:
            yield passed("nothing is stored yet")
            return
        with closing(SQLiteStore(self._target.url, self._target.options)) as store:
            yield from cleaning_of(store, self._target.conf)

    def _backend(self) -> ResultBackend:
        if self._test_path is None:
            return self._target.backend()
        return self._target.elsewhere(f"sqlite:///{quote(str(self._test_path))}").backend()


def _is_writable(folder: Path) -> bool:
    """Return True if a file can be created in a folder. Permissions alone do not show a read-only disk."""
    try:
        probe = folder / f".rootcellar-check-{uuid4().hex[:8]}"
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True


def _is_inaccessible(path: Path) -> bool:
    return path.exists() and not os.access(path, os.R_OK | os.W_OK)


def _file_system(folder: Path) -> str:
    """Return the type of a folder's file system, empty if unknown."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return ""
    above = {str(place) for place in (folder.resolve(), *folder.resolve().parents)}
    found = [(len(mount[1]), mount[2]) for mount in mounts if mount[1] in above]
    return max(found, default=(0, ""))[1]


#: what :mod:`rootcellar.checks.choosing` calls
checks = SQLiteChecks
