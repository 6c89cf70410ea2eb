"""What ``rootcellar check`` looks at in a SQLite file."""

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
from rootcellar.checks.findings import Finding
from rootcellar.checks.steps import Checks, Step, ok, wrong
from rootcellar.checks.target import Target
from rootcellar.checks.trial import Trial
from rootcellar.stores.sqlite import SQLiteStore, driver

#: seconds to wait for others who write
_LOCK_PATIENCE = 1.0
#: bytes of room below which it is warned
_ROOM = 100 << 20
_NETWORK_DISKS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "glusterfs", "ceph", "afs"}
_MAGIC = b"SQLite format 3\0"
_BESIDE = ("", "-wal", "-shm", "-journal")


class SQLiteChecks(Checks):
    """A SQLite file. Where there is none yet, the rest is tried on a throw-away file beside it."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._path = driver.database_path(target.url)
        self._throw_away: Path | None = None
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
            *self._trial.steps(),
        ]

    def close(self) -> None:
        self._trial.close()
        if self._throw_away is not None:
            for suffix in _BESIDE:
                with suppress(OSError):
                    Path(f"{self._throw_away}{suffix}").unlink(missing_ok=True)

    def understand(self, exc: Exception) -> errors.RootcellarError | None:
        return driver.translate(exc, self._path) if isinstance(exc, sqlite3.Error) else None

    # -- steps

    def _folder(self) -> Iterator[Finding]:
        folder = self._path.absolute().parent
        if not folder.is_dir():
            yield wrong("sqlite-no-folder", f"there is no folder {folder}", f"make the folder {folder}")
            return
        if not _is_writable(folder):
            yield wrong("sqlite-read-only-folder", f"{folder} cannot be written")
            return
        disk = _file_system(folder)
        if disk in _NETWORK_DISKS:
            yield wrong("sqlite-network-disk", f"{folder} is on {disk}")
        room = shutil.disk_usage(folder).free
        if room < _ROOM:
            yield wrong("sqlite-little-room", f"{room >> 20} MB are left")
        else:
            yield ok(f"{folder}, {room / (1 << 30):.0f} GB of room")

    def _file(self) -> Iterator[Finding]:
        if not self._path.exists():
            yield ok("none yet: the first use makes it; tried on a throw-away file beside it")
            self._throw_away = self._path.with_name(f"{self._path.name}.rootcellar-check-{uuid4().hex[:8]}")
            return
        try:
            with self._path.open("rb") as file:
                begins = file.read(len(_MAGIC))
        except OSError as exc:
            yield wrong("sqlite-read-only-file", f"{self._path} cannot be read: {exc.strerror}")
            return
        if begins and begins != _MAGIC:
            yield wrong("sqlite-not-a-database", f"{self._path} is something else")
            return
        closed = [f"{self._path}{end}" for end in _BESIDE if _is_there_and_closed(Path(f"{self._path}{end}"))]
        if closed:
            yield wrong("sqlite-read-only-file", f"{', '.join(closed)} cannot be written")
        else:
            yield ok(f"{self._path.stat().st_size / (1 << 20):.1f} MB, SQLite {sqlite3.sqlite_version}")

    def _lock(self) -> Iterator[Finding]:
        if self._throw_away is not None:
            yield ok("nobody has the file")
            return
        with closing(sqlite3.connect(self._path, timeout=_LOCK_PATIENCE, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
            except sqlite3.OperationalError as exc:
                if "locked" not in str(exc):
                    raise
                yield wrong("sqlite-locked", f"another program has held the lock for more than {_LOCK_PATIENCE:g} s")
                return
        yield ok("free")

    def _journal(self) -> Iterator[Finding]:
        if self._throw_away is None:
            with closing(sqlite3.connect(self._path, timeout=_LOCK_PATIENCE)) as connection:
                (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
            if mode != "wal" and self._path.stat().st_size:
                # to change it would leave a trace
                yield ok(f"{mode}; the first use makes it WAL")
                return
        with closing(driver.connect(self._throw_away or self._path)) as connection:
            (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        yield ok("WAL") if mode == "wal" else wrong("sqlite-no-wal", f"the journal is {mode}")

    def _schema(self) -> Iterator[Finding]:
        if self._throw_away is not None and not self._target.options.create_tables:
            yield wrong("schema-missing", "there is no file, and no tables may be made")
            return
        if self._throw_away is not None:
            yield ok("none yet: the first use makes the tables")
            return
        store = SQLiteStore(self._target.url, self._target.options)
        with closing(store):
            yield from self._judge(store)

    def _judge(self, store: SQLiteStore) -> Iterator[Finding]:
        status = store.schema.status()
        may_make = store.options.create_tables
        if status.foreign:
            yield wrong("foreign-tables", f"{' and '.join(status.foreign)} exists and is not rootcellar's")
        elif status.version > status.wanted:
            yield wrong("schema-newer", f"version {status.version}, this release knows {status.wanted}")
        elif status.damaged:
            yield wrong("schema-damaged", "; ".join(status.damaged), " ".join(status.repairs))
        elif status.version == status.wanted:
            yield ok(f"version {status.version}, {store.schema.tables['task']}")
        elif not may_make:
            code = "schema-outdated" if status.version else "schema-missing"
            yield wrong(code, f"version {status.version}, this release wants {status.wanted}")
        else:
            self._throw_away = self._path.with_name(f"{self._path.name}.rootcellar-check-{uuid4().hex[:8]}")
            yield ok("the first use makes or upgrades the tables; tried on a throw-away file beside it")

    def _backend(self) -> ResultBackend:
        if self._throw_away is None:
            return self._target.backend()
        return self._target.elsewhere(f"sqlite:///{quote(str(self._throw_away))}").backend()


def _is_writable(folder: Path) -> bool:
    """Tell whether a file can be made in a folder, by making one: rights alone do not tell of a read-only disk."""
    try:
        probe = folder / f".rootcellar-check-{uuid4().hex[:8]}"
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True


def _is_there_and_closed(path: Path) -> bool:
    return path.exists() and not os.access(path, os.R_OK | os.W_OK)


def _file_system(folder: Path) -> str:
    """Return the kind of file system that a folder is on, empty where the system does not say."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return ""
    above = {str(place) for place in (folder.resolve(), *folder.resolve().parents)}
    found = [(len(mount[1]), mount[2]) for mount in mounts if mount[1] in above]
    return max(found, default=(0, ""))[1]


#: what :mod:`rootcellar.checks.choosing` calls
checks = SQLiteChecks
