"""The errors for a Python package that cannot be imported: missing or broken."""

from __future__ import annotations

from collections.abc import Collection

from rootcellar.errors import ConfigurationError, DriverBroken, DriverMissing


def import_failure(
    exc: ImportError, modules: Collection[str], name: str, *, where: str, install: str
) -> ConfigurationError:
    """Return the error for a package that cannot be imported.

    Args:
        exc: the exception of the import.
        modules: the modules whose absence means that the package is missing.
        name: a readable name of the package.
        where: what needs it.
        install: the command that installs it.
    """
    if isinstance(exc, ModuleNotFoundError) and exc.name in modules:
        return DriverMissing(f"{name} is not installed", where=where, remedy=install)
    return DriverBroken(
        f"{name} is installed, but importing it fails: {type(exc).__name__}: {exc}",
        where=where,
        remedy=f"correct what the error names, or install the package again: {install}",
    )
