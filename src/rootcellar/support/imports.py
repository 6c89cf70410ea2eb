"""A Python package that cannot be imported: it is missing, or it is there and broken."""

from __future__ import annotations

from collections.abc import Collection

from rootcellar.errors import ConfigurationError, DriverBroken, DriverMissing


def import_failure(
    exc: ImportError, modules: Collection[str], name: str, *, where: str, install: str
) -> ConfigurationError:
    """Return the error that says why a package cannot be imported.

    Args:
        exc: what the import raised.
        modules: the modules whose absence means that the package is missing.
        name: the package, for people.
        where: what needs it.
        install: the command that installs it.
    """
    if isinstance(exc, ModuleNotFoundError) and exc.name in modules:
        return DriverMissing(f"{name} is not installed", where=where, remedy=install)
    return DriverBroken(
        f"{name} is installed, and importing it fails: {type(exc).__name__}: {exc}",
        where=where,
        remedy=f"correct what the error names, or install the package anew: {install}",
    )
