"""Every error that rootcellar raises.

An error says in one line what is wrong, where, and what to do about it; never with a password in it.
``retryable`` tells whether the same call may succeed later with nothing changed in this program
or its settings: an outage ends, a wrong password stays wrong. A password, a grant or a database that is refused after
it has worked is an outage, too: then the error itself is retryable, whatever its class says.
"""

from __future__ import annotations

import re

from rootcellar.text.escaping import visible

#: names of errors that have no entry, because their messages say all
WITHOUT_ENTRY = frozenset({"rootcellar-error", "demo-failed", "files-in-the-way", "not-a-result"})


class RootcellarError(Exception):
    """The base of all errors of rootcellar.

    Args:
        what: what is wrong.
        where: the store, file or setting that it concerns (no secrets).
        remedy: what the reader of the message can do.
    """

    #: may be set on one error, whatever its class says
    retryable: bool = False

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        # ids, names and what servers say are in it: wherever it is printed, nothing in it steers a terminal
        self.what = visible(" ".join(what.split()))
        self.where = visible(where)
        self.remedy = visible(remedy)
        super().__init__(self.what)

    @property
    def code(self) -> str:
        """Its name, by which ``rootcellar explain`` and docs/troubleshooting.md know it: ``store-unavailable``."""
        return code_of(type(self))

    def __str__(self) -> str:
        place = f" [{self.where}]" if self.where else ""
        advice = f" -> {self.remedy}" if self.remedy else ""
        entry = "" if self.code in WITHOUT_ENTRY else f" (see `{explain(self.code)}`)"
        return f"{self.what}{place}{advice}{entry}"

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.where, self.remedy, self.retryable))


def code_of(cls: type[RootcellarError]) -> str:
    """Return the name of an error.

    A private class, and one of another package, has none of its own: it has that of the first public one of rootcellar
    that it extends.
    """
    ours = (each for each in cls.__mro__ if each.__module__.partition(".")[0] == "rootcellar")
    return kebab(next(each.__name__ for each in ours if not each.__name__.startswith("_")))


def explain(name: str) -> str:
    """Return the command that prints the entry of an error or a finding."""
    return f"rootcellar explain {name}"


def kebab(name: str) -> str:
    """Return ``store-unavailable`` for ``StoreUnavailable``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()


def _rebuild(
    cls: type[RootcellarError], what: str, where: str, remedy: str, retryable: bool | None = None
) -> RootcellarError:
    error = cls(what, where=where, remedy=remedy)
    if retryable is not None:
        error.retryable = retryable
    return error


class ConfigurationError(RootcellarError):
    """A setting or a URL is wrong. Not retryable."""


class SettingsWrong(ConfigurationError):
    """Variables of the environment, of ``.env`` or of a file are wrong or missing. Not retryable.

    Attributes:
        problems: everything that is wrong, each with the name of its variable.
        warnings: names that may be misspelt, and values of variables that are not used.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        remedy: str = "",
        problems: tuple[str, ...] = (),
        warnings: tuple[str, ...] = (),
    ) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.problems = problems
        self.warnings = warnings

    def __reduce__(self) -> tuple[object, ...]:
        return (*super().__reduce__(), {"problems": self.problems, "warnings": self.warnings})


class AppendOnlyMissing(ConfigurationError):
    """Redis keeps no append-only file, but results that nobody else has. Retryable: it may be given one."""

    retryable = True


class UnknownScheme(ConfigurationError):
    """No store is registered for the scheme of the URL. Not retryable."""


class DriverMissing(ConfigurationError):
    """The Python package that talks to the server is not installed. Not retryable."""


class DriverBroken(ConfigurationError):
    """A Python package is installed and cannot be imported, such as a driver without its C library. Not retryable."""


class NotAResult(RootcellarError, TypeError):
    """Something was to be awaited that is no result of Celery and no id of a task. Not retryable."""


class StoreError(RootcellarError):
    """The base of the errors of a store."""


class StoreUnavailable(StoreError):
    """The server cannot be reached, is starting or went away. Retryable."""

    retryable = True


class DiskFull(StoreError):
    """The server has no room left. Retryable: it may be given some."""

    retryable = True


class StoreReadOnly(StoreError):
    """The server or the file takes no writes (a standby, a read-only file system). Retryable: a failover ends."""

    retryable = True


class AuthenticationFailed(StoreError):
    """The server refused the user or the password. Not retryable where it never worked."""


class CertificateRefused(StoreError):
    """One side refused the other's certificate: wrong CA, wrong name or none. Not retryable where it never worked."""


class CertificateExpired(CertificateRefused):
    """The server's TLS certificate has expired. Retryable: the server is given a new one."""

    retryable = True


class DatabaseMissing(StoreError):
    """The server has no database of that name. Not retryable where it never worked."""


class PermissionDenied(StoreError):
    """The user may not do this on the server. Not retryable where it never worked."""


class ServerTooOld(StoreError):
    """The server is older than the oldest release that rootcellar supports. Not retryable."""


class PoolerUnfit(StoreError):
    """A connection pooler before the server is set in a way that cannot serve rootcellar. Not retryable."""


class SchemaMissing(StoreError):
    """The tables are not there and may not be made on first use. Not retryable where it never worked."""


class SchemaOutdated(StoreError):
    """The tables are of an older or newer layout than this release can use. Not retryable."""


class ForeignTables(StoreError):
    """Tables of that name exist and are not rootcellar's. Not retryable."""


class ResultsInTheWay(StoreError):
    """Tables would be taken away that hold results. Not retryable."""


class RecordRefused(StoreError):
    """The server refused the data of one record. Not retryable."""


class PayloadTooLarge(RecordRefused):
    """A record is larger than the server takes. Not retryable."""


class AbilityMissing(StoreError):
    """The store cannot do what was asked of it. Not retryable."""


class PayloadError(RootcellarError):
    """The base of the errors of encoding and decoding. Not retryable."""


class PayloadUnreadable(PayloadError):
    """A stored payload cannot be decoded: damaged, or of a serializer that is not here. Not retryable."""


class ContentRefused(PayloadError):
    """A stored payload is of a content type that ``result_accept_content`` does not list. Not retryable."""


class SealBroken(PayloadUnreadable):
    """A stored payload was altered, or encrypted or signed for another task or field. Not retryable."""


class UnsealedRefused(PayloadError):
    """A stored payload is neither encrypted nor signed, and there are keys. Not retryable."""


class KeyMissing(PayloadError):
    """The key that encrypted or signed a stored payload is not here. Not retryable.

    Attributes:
        key_id: the id of the key that is needed.
    """

    def __init__(self, what: str, *, where: str = "", remedy: str = "", key_id: str = "") -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.key_id = key_id

    def __reduce__(self) -> tuple[object, ...]:
        return (*super().__reduce__(), {"key_id": self.key_id})


class FilesInTheWay(RootcellarError):
    """``rootcellar init`` would replace files, and was not told to. Not retryable.

    Attributes:
        files: the names of the files.
    """

    def __init__(self, what: str, *, where: str = "", remedy: str = "", files: tuple[str, ...] = ()) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.files = files

    def __reduce__(self) -> tuple[object, ...]:
        return (*super().__reduce__(), {"files": self.files})


class TypeRefused(PayloadError):
    """A stored payload names a class that is not made of it: none of its kind, or not allowed. Not retryable."""


class PayloadBomb(PayloadError):
    """A stored payload is larger than ``result_max_decompressed_size`` once it is decompressed. Not retryable."""


class BlobStoreUnknown(ConfigurationError):
    """A result is kept in a blob, and nothing says here where blobs are. Not retryable."""


class DemoFailed(RootcellarError):
    """``rootcellar demo`` found a result that is not what it should be. Not retryable."""
