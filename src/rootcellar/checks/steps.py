"""The shape of all checks: steps in order, each a look at one thing; what rests on a failed one is not looked at."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from rootcellar import errors
from rootcellar.checks.findings import Finding, Level
from rootcellar.checks.register import problem
from rootcellar.urls import redact

#: how our errors are called in the register; the first class that fits
_CODES: tuple[tuple[type[errors.RootcellarError], str], ...] = (
    (errors.CertificateExpired, "certificate-expired"),
    (errors.DriverMissing, "driver-missing"),
    (errors.DriverBroken, "driver-broken"),
    (errors.ConfigurationError, "settings-wrong"),
    (errors.ContentRefused, "settings-wrong"),
    (errors.AuthenticationFailed, "authentication-failed"),
    (errors.DatabaseMissing, "database-missing"),
    (errors.PermissionDenied, "permission-denied"),
    (errors.ServerTooOld, "server-too-old"),
    (errors.PoolerUnfit, "pooler-unfit"),
    (errors.SchemaMissing, "schema-missing"),
    (errors.SchemaOutdated, "schema-outdated"),
    (errors.ForeignTables, "foreign-tables"),
    (errors.StoreReadOnly, "store-read-only"),
    (errors.DiskFull, "disk-full"),
    (errors.StoreUnavailable, "store-unavailable"),
)
#: words of ``stores/tls.py`` that tell one refusal from another
_TLS_WORDS = (
    ("wrong CA", "tls-wrong-ca"),
    ("wrong host name", "tls-wrong-name"),
    ("refused our certificate", "tls-client-certificate"),
    ("does not offer TLS", "tls-not-offered"),
    ("does not speak TLS", "tls-not-offered"),
    ("TLS connection failed", "tls-failed"),
)

Look = Callable[[], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to look at.

    Attributes:
        name: what it is called in the checklist.
        look: says what it found.
        is_ground: whether nothing after it can be looked at if it failed.
    """

    name: str
    look: Look
    stops_on_failure: bool = False


class Checks(ABC):
    """What is looked at for one system. A subclass lists its steps; what they make is gone after :meth:`close`."""

    @property
    @abstractmethod
    def where(self) -> str:
        """The place for people, without secrets."""

    @abstractmethod
    def steps(self) -> Sequence[Step]:
        """Return what to look at, in order."""

    def understand(self, exc: Exception) -> errors.RootcellarError | None:
        """Return the error of ours that one of the driver's means; ``None`` for what is none of the driver's."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Take away what was left, and close what was opened. Raises nothing for a server that is gone."""


def ok(seen: str) -> Finding:
    """Say that nothing is wrong; the runner adds what was looked at."""
    return Finding(check="", level=Level.OK, seen=seen)


def wrong(code: str, seen: str, remedy: str = "") -> Finding:
    """Name a problem of the register.

    Args:
        code: its name.
        seen: what was seen.
        remedy: what to change here and now, where more is known than the register tells.
    """
    entry = problem(code)
    return Finding(check="", level=entry.level, seen=seen, problem=entry, remedy=remedy)


def problem_as(code: str, finding: Finding) -> Finding:
    """Return a finding under another name, which fits better where it was made."""
    return wrong(code, finding.seen)


def failed(exc: errors.RootcellarError) -> Finding:
    """Name the problem that an error of ours means."""
    return wrong(code_of(exc), exc.what, exc.remedy)


def code_of(exc: errors.RootcellarError) -> str:
    """Return the name in the register of what an error means."""
    by_class = next((code for kind, code in _CODES if isinstance(exc, kind)), "store-error")
    if by_class == "certificate-expired":
        return by_class
    by_words = next((code for words, code in _TLS_WORDS if words in exc.what), None)
    if by_words is None and isinstance(exc, errors.CertificateRefused):
        return "tls-failed"
    return by_words or by_class


def is_about_tls(exc: errors.RootcellarError) -> bool:
    """Tell whether an error says that no encrypted connection came about."""
    return code_of(exc).startswith(("tls-", "certificate-"))


def run(checks: Checks, begin: Callable[[str], object] = lambda name: None) -> Generator[Finding, None, None]:
    """Take the steps in order, and yield what each found as soon as it is known.

    Args:
        checks: whose steps.
        begin: told the name of each step as it begins.
    """
    broken = ""
    is_closed = False
    try:
        for step in _steps_of(checks):
            if broken:
                yield Finding(check=step.name, level=Level.SKIPPED, seen=f"not looked at: {broken} failed")
                continue
            begin(step.name)
            for finding in _take(step, checks):
                yield finding
                if finding.level is Level.FAILURE and step.stops_on_failure:
                    broken = step.name
        is_closed = True
        yield from _take(Step("cleaning up", lambda: _close(checks)), checks)
    finally:
        if not is_closed:
            checks.close()


def _close(checks: Checks) -> Iterable[Finding]:
    """Take away what was left; there is nothing to say where that went well."""
    checks.close()
    return ()


def _steps_of(checks: Checks) -> Sequence[Step]:
    """Return the steps; what goes wrong while they are listed is a finding too."""
    try:
        return checks.steps()
    except Exception as exc:
        finding = found_in(exc, checks.understand)
        return [Step("settings", lambda: [finding], stops_on_failure=True)]


def found_in(
    exc: Exception, understand: Callable[[Exception], errors.RootcellarError | None] = lambda exc: None
) -> Finding:
    """Return the finding that an exception means; ``understand`` knows those of a driver."""
    error = exc if isinstance(exc, errors.RootcellarError) else understand(exc)
    if error is not None:
        return failed(error)
    return wrong("check-failed", redact(f"{type(exc).__name__}: {' '.join(str(exc).split())}"))


def _take(step: Step, checks: Checks) -> Iterator[Finding]:
    began = time.monotonic()

    def told(finding: Finding) -> Finding:
        return replace(finding, check=step.name, seconds=time.monotonic() - began)

    try:
        for finding in step.look():
            yield told(finding)
    except Exception as exc:
        yield told(found_in(exc, checks.understand))


def worst_of(findings: Iterable[Finding]) -> Level:
    """Return how it ended as a whole."""
    found = {finding.level for finding in findings}
    return next((level for level in (Level.FAILURE, Level.WARNING) if level in found), Level.OK)


def first_of(findings: Sequence[Finding]) -> Finding | None:
    """Return what to fix first: the first failure, for later ones may come of it; else the first warning."""
    for level in (Level.FAILURE, Level.WARNING):
        for finding in findings:
            if finding.level is level:
                return finding
    return None
