"""SQLite's files and permissions."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from datetime import datetime, timezone
from pathlib import Path

import pytest

from rootcellar import errors
from rootcellar.records import Payload, TaskRecord
from rootcellar.stores import open_store


def test_refused_file_is_closed(tmp_path: Path) -> None:
    file = tmp_path / "letter.txt"
    file.write_text("Dear Sir or Madam, " * 100)
    with pytest.raises(errors.StoreError, match="not a database") as caught:
        open_store(f"sqlite:///{file}").check()
    # a kept error keeps no file open
    assert caught.value.__traceback__ is not None
    assert str(file) not in open_files()


def open_files() -> set[str]:
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    return found


def test_file_in_utf16_changes_no_result(tmp_path: Path) -> None:
    path = tmp_path / "wide.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA encoding = 'UTF-16le'")
        connection.execute("CREATE TABLE other (n int)")
        assert connection.execute("PRAGMA encoding").fetchone() == ("UTF-16le",)
    store = open_store(f"sqlite:///{path}")
    one = TaskRecord(
        task_id="täsk",
        state="SUCCESS",
        name="café 🍅",
        result=Payload('"café 🍅"'.encode()),
        done_at=datetime.now(timezone.utc),
    )
    store.put(one)
    assert store.get("täsk") == one
    assert list(store.scan()) == [one]
    store.close()


def test_new_file_is_readable_only_by_its_owner(tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        store = open_store(f"sqlite:///{tmp_path}/results.sqlite3")
        store.put(TaskRecord(task_id="a", state="SUCCESS"))
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        store.close()
    finally:
        os.umask(umask)
    assert {"results.sqlite3", "results.sqlite3-wal"} <= modes.keys()
    assert set(modes.values()) == {0o600}


def test_existing_file_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite3"
    path.touch()
    path.chmod(0o640)
    store = open_store(f"sqlite:///{path}")
    store.put(TaskRecord(task_id="a", state="SUCCESS"))
    modes = {each.stat().st_mode & 0o777 for each in tmp_path.iterdir()}
    store.close()
    assert modes == {0o640}
