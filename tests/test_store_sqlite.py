"""What is SQLite's own."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from rootcellar import errors
from rootcellar.stores import open_store


def test_a_file_that_is_refused_is_closed_again(tmp_path: Path) -> None:
    file = tmp_path / "letter.txt"
    file.write_text("Dear Sir or Madam, " * 100)
    with pytest.raises(errors.StoreError, match="not a database") as caught:
        open_store(f"sqlite:///{file}").check()
    # whoever keeps the error keeps no file open with it
    assert caught.value.__traceback__ is not None
    assert str(file) not in open_files()


def open_files() -> set[str]:
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    return found
