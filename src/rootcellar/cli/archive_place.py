"""Names the place of an archive for commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from rootcellar.archive.places import SETTING, Place, open_place
from rootcellar.cli.output import WrongUse
from rootcellar.errors import ConfigurationError, RootcellarError
from rootcellar.opening import payload_settings_for
from rootcellar.payloads.settings import value_of
from rootcellar.stores import Store
from rootcellar.stores.archiving import Manifest

ToOption = Annotated[
    str | None,
    typer.Option("--to", metavar="URL", help="The archive: a folder, or a URL of fsspec. By default result_archive"),
]
AtOption = Annotated[
    str | None,
    typer.Option("--at", metavar="URL", help="The archive: a folder, or a URL of fsspec. By default result_archive"),
]


def named_place(given: str | None, conf: Mapping[str, Any], option: str) -> Place:
    """Return the place of the archive that an option names, or else the settings or the environment.

    Raises:
        WrongUse: none is named, or the option names none that can be opened.
        ConfigurationError: the one of the settings cannot be opened.
    """
    url = given or value_of(payload_settings_for(conf), SETTING)[0]
    if not url:
        raise WrongUse(f"no archive is named: give {option} URL, or set {SETTING} or ROOTCELLAR_ARCHIVE")
    try:
        return open_place(str(url))
    except ConfigurationError as exc:
        if not given:
            raise
        raise WrongUse(f"{option}: {exc.what} -> {exc.remedy}") from exc


def number_of_archived(store: Store) -> int | None:
    """Return how many results of a store are archived; ``None`` if it cannot say, as for a user without rights."""
    manifest = store.ability(Manifest)
    if manifest is None:
        return 0
    try:
        return sum(file.valid for file in manifest.files())
    except RootcellarError:
        # only a sentence depends on it
        return None
