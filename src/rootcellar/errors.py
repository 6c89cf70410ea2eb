"""Every error that rootcellar raises.

The message of an error is one line: what is wrong, where, and what to do. It never contains a password.
``retryable`` is true if the same call may succeed later without a change in this program or its settings: an outage
ends, but a wrong password stays wrong. If a password, a right or a database worked before and is then refused, this is
also an outage: ``retryable`` is then true for this one error, even if it is false for its class.
"""

from __future__ import annotations

import re

from rootcellar.text.escaping import visible

#: names of errors that have no entry, because their messages are sufficient
WITHOUT_ENTRY = frozenset({"rootcellar-error", "demo-failed", "files-in-the-way", "file-unwritable", "not-a-result"})


class RootcellarError(Exception):
    """The base of all errors of rootcellar.

    Args:
        what: what is wrong.
        where: the store, file or setting (without secrets).
        remedy: what the reader of the message can do.
    """

    #: the default of the class; a single error may have another value
    retryable: bool = False

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        # a message may contain ids, names and texts of servers, which must not control a terminal
        self.what = visible(" ".join(what.split()))
        self.where = visible(where)
        self.remedy = visible(remedy)
        super().__init__(self.what)

    @property
    def code(self) -> str:
        """The error's name in ``rootcellar explain`` and docs/troubleshooting.md, such as ``store-unavailable``."""
        return code_of(type(self))

    def __str__(self) -> str:
        # a setting is often named in the sentence already
        place = f" [{self.where}]" if self.where and not self.what.startswith(f"{self.where} ") else ""
        advice = f" -> {self.remedy}" if self.remedy else ""
        entry = "" if self.code in WITHOUT_ENTRY else f" (see `{explain(self.code)}`)"
        return f"{self.what}{place}{advice}{entry}"

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.where, self.remedy, self.retryable))


def code_of(cls: type[RootcellarError]) -> str:
    """Return the name of an error.

    A private class, or a class of another package, has the name of the first public class of rootcellar that it
    extends.
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
    """Redis has the only copy of results, but keeps no append-only file. Retryable: it may be turned on."""

    retryable = True


class UnknownScheme(ConfigurationError):
    """No store is registered for the scheme of the URL. Not retryable."""


class DriverMissing(ConfigurationError):
    """The Python package that talks to the server is not installed. Not retryable."""


class DriverBroken(ConfigurationError):
    """A Python package is installed and cannot be imported, such as a driver without its C library. Not retryable."""


class NotAResult(RootcellarError, TypeError):
    """A value to wait for is neither a result of Celery nor the id of a task. Not retryable."""


class BrokerUnavailable(RootcellarError):
    """The broker cannot be reached, or the connection was lost while a task was sent. Retryable."""

    retryable = True


class BrokerRefused(RootcellarError):
    """The broker did not take a message: it has no such queue or exchange. Not retryable."""


class StoreError(RootcellarError):
    """The base of the errors of a store."""


class StoreUnavailable(StoreError):
    """The server cannot be reached, is starting or went away. Retryable."""

    retryable = True


class DiskFull(StoreError):
    """The server's disk is full. Retryable: somebody may free space."""

    retryable = True


class StoreReadOnly(StoreError):
    """The server or the file refuses writes (a standby, a read-only file system). Retryable: a failover ends."""

    retryable = True


class AuthenticationFailed(StoreError):
    """The server refused the user or the password. Not retryable if it never worked."""


class CertificateRefused(StoreError):
    """One side refused the other's certificate: wrong CA, wrong name or none. Not retryable if it never worked."""


class CertificateExpired(CertificateRefused):
    """The server's TLS certificate has expired. Retryable: the server will get a new one."""

    retryable = True


class DatabaseMissing(StoreError):
    """The server has no database of that name. Not retryable if it never worked."""


class PermissionDenied(StoreError):
    """The user lacks a right on the server. Not retryable if it never worked."""


class ServerTooOld(StoreError):
    """The server is older than the oldest release that rootcellar supports. Not retryable."""


class PoolerUnfit(StoreError):
    """A connection pooler is configured in a way with which rootcellar cannot work. Not retryable."""


class SchemaMissing(StoreError):
    """The tables do not exist and may not be created at the first use. Not retryable if it never worked."""


class SchemaOutdated(StoreError):
    """The tables have an older or newer layout than this release can use. Not retryable."""


class ForeignTables(StoreError):
    """Tables of that name exist, but rootcellar did not create them. Not retryable."""


class ResultsInTheWay(StoreError):
    """Tables that contain results would be dropped. Not retryable."""


class ResultHeld(StoreError):
    """A hold keeps results from being deleted. Not retryable.

    Attributes:
        task_ids: the tasks whose results stay.
        deleted: how many other results the same call deleted.
    """

    def __init__(
        self, what: str, *, where: str = "", remedy: str = "", task_ids: tuple[str, ...] = (), deleted: int = 0
    ) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.task_ids = task_ids
        self.deleted = deleted

    def __reduce__(self) -> tuple[object, ...]:
        return (*super().__reduce__(), {"task_ids": self.task_ids, "deleted": self.deleted})


class RecordRefused(StoreError):
    """The server refused the data of one record. Not retryable."""


class PayloadTooLarge(RecordRefused):
    """A record is larger than the server accepts. Not retryable."""


class ArchiveFileMissing(StoreError):
    """A file that the archive lists is not at its place. Not retryable: somebody moved or deleted it."""


class ArchiveFileExists(StoreError):
    """A file of the archive would replace another one. Not retryable."""


class ArchiveDamaged(StoreError):
    """A file of the archive is not what was written, or cannot be read. Not retryable."""


class AbilityMissing(StoreError):
    """The store does not support an operation. Not retryable."""


class PayloadError(RootcellarError):
    """The base of the errors of encoding and decoding. Not retryable."""


class PayloadUnreadable(PayloadError):
    """A stored payload cannot be decoded: it is damaged, or its serializer is not installed. Not retryable."""


class ContentRefused(PayloadError):
    """A stored payload has a content type that ``result_accept_content`` does not list. Not retryable."""


class SealBroken(PayloadUnreadable):
    """A stored payload was altered, or encrypted or signed for another task or field. Not retryable."""


class UnsealedRefused(PayloadError):
    """A stored payload is neither encrypted nor signed, but keys are configured. Not retryable."""


class KeyMissing(PayloadError):
    """The key that encrypted or signed a stored payload is missing. Not retryable.

    Attributes:
        key_id: the id of the key that is needed.
    """

    def __init__(self, what: str, *, where: str = "", remedy: str = "", key_id: str = "") -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.key_id = key_id

    def __reduce__(self) -> tuple[object, ...]:
        return (*super().__reduce__(), {"key_id": self.key_id})


class FilesInTheWay(RootcellarError):
    """``rootcellar init`` would replace files, but was not asked to. Not retryable.

    Attributes:
        files: the names of the files.
    """

    def __init__(self, what: str, *, where: str = "", remedy: str = "", files: tuple[str, ...] = ()) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.files = files

    def __reduce__(self) -> tuple[object, ...]:
        return (*super().__reduce__(), {"files": self.files})


class FileUnwritable(RootcellarError):
    """A file that a command was asked for cannot be written. Not retryable."""


class TypeRefused(PayloadError):
    """A stored payload names a class that is of the wrong kind or not allowed. Not retryable."""


class PayloadBomb(PayloadError):
    """A stored payload is larger than ``result_max_decompressed_size`` after decompression. Not retryable."""


class BlobStoreUnknown(ConfigurationError):
    """A result is in a blob, but the settings do not say where blobs are. Not retryable."""


class DemoFailed(RootcellarError):
    """``rootcellar demo`` found an unexpected result. Not retryable."""


class MigrationError(RootcellarError):
    """The base of the errors of a migration from one store to another."""


class MigrationRefused(MigrationError):
    """A step of a migration is not possible with these stores, or in this phase. Not retryable."""


class MigrationBusy(MigrationError):
    """Another process coordinates the migration at this moment, or has taken it over. Retryable: it ends."""

    retryable = True


class MigrationUnconfirmed(MigrationError):
    """Processes have not confirmed the phase of a migration in time. Retryable: they may still do so.

    Attributes:
        processes: the names of the processes, each as ``host/pid``.
    """

    retryable = True

    def __init__(self, what: str, *, where: str = "", remedy: str = "", processes: tuple[str, ...] = ()) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.processes = processes

    def __reduce__(self) -> tuple[object, ...]:
        return (*super().__reduce__(), {"processes": self.processes})


class MigrationDiffers(MigrationError):
    """The two stores of a migration hold different results after a pass. Not retryable."""


class MigrationChordsOpen(MigrationError):
    """Chords wait for their parts in a store that a migration is about to leave. Retryable: they end."""

    retryable = True


class MigrationPhaseUnknown(MigrationError):
    """A process cannot read the phase of the migration, so it may not store or read. Retryable: an outage ends."""

    retryable = True
