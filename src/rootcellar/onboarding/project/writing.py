"""Writes the files of a project: all of them, or none."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rootcellar.errors import ConfigurationError, FilesInTheWay
from rootcellar.onboarding.project.contents import contents_of
from rootcellar.onboarding.project.passwords import passwords_for
from rootcellar.onboarding.recommend import Setup

#: the file with the passwords, which only its owner may read
SECRETS = ".env"
_FOR_OWNER = stat.S_IRUSR | stat.S_IWUSR
_FOR_ALL = _FOR_OWNER | stat.S_IRGRP | stat.S_IROTH


@dataclass(frozen=True, slots=True)
class Written:
    """The written project.

    Attributes:
        folder: its folder.
        files: the names of its files, in the order of its README.
        replaced: the files that existed before.
    """

    folder: Path
    files: tuple[str, ...]
    replaced: tuple[str, ...]


def render(setup: Setup, name: str, passwords: Mapping[str, str]) -> dict[str, str]:
    """Return the text of each file of a project, by its name; only ``.env`` has passwords."""
    return contents_of(setup, name, passwords)


def write(folder: str | Path, setup: Setup, *, force: bool = False) -> Written:
    """Write a project into a folder, which is created if it does not exist.

    Args:
        folder: the folder; the Celery app gets its name.
        setup: the broker and the backend.
        force: replace existing files. The passwords of an ``.env`` are kept.

    Raises:
        FilesInTheWay: some of the files exist; nothing was written.
        ConfigurationError: the folder cannot be written.
    """
    folder = Path(folder)
    files = render(setup, app_name(folder), passwords_for(setup, folder / SECRETS))
    there = tuple(name for name in files if os.path.lexists(folder / name))
    folders = [name for name in there if (folder / name).is_dir() and not (folder / name).is_symlink()]
    if there and (folders or not force):
        raise FilesInTheWay(
            f"{', '.join(folders or there)} {'is' if len(folders or there) == 1 else 'are'} in the way",
            where=str(folder),
            remedy="remove the folders of these names"
            if folders
            else "nothing was written: choose another folder, "
            "or give --force (force=True), which replaces these files and keeps the passwords of .env",
            files=there,
        )
    try:
        _write_all(folder, files)
    except OSError as exc:
        raise ConfigurationError(
            f"the project cannot be written: {exc.strerror or exc}",
            where=str(folder),
            remedy="choose a folder that you may write in",
        ) from exc
    return Written(folder, tuple(files), there)


def app_name(folder: Path) -> str:
    """Return the name of a folder as a valid name of a Python module."""
    name = re.sub(r"\W+", "_", folder.resolve().name, flags=re.ASCII).strip("_").lower()
    return name if name and not name[0].isdigit() else f"app_{name}".rstrip("_")


def _write_all(folder: Path, files: Mapping[str, str]) -> None:
    """Write each file under another name, then rename all: if the disk is full, the old files stay."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = {name: folder / f".{name.lstrip('.')}.new-{os.getpid()}" for name in files}
    try:
        for name, text in files.items():
            _write_new(aside[name], text, _FOR_OWNER if name == SECRETS else _FOR_ALL)
        for name, path in aside.items():
            path.replace(folder / name)
    finally:
        for path in aside.values():
            path.unlink(missing_ok=True)


def _write_new(path: Path, text: str, mode: int) -> None:
    """Write a file that must not exist; it has its mode from the beginning."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        file.write(text)
