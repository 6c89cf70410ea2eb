"""The shape of all checks: an ordered list of steps, each of which checks one thing.

After the failure of a step with ``stops_on_failure``, the remaining steps are skipped.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from rootcellar import errors
from rootcellar.checks.findings import Finding, Level
from rootcellar.checks.register import registered_problem
from rootcellar.urls import redact

#: the names of our errors in the register; the first matching class decides
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
#: words in the messages of ``stores/tls.py``, by which its errors are distinguished
_TLS_WORDS = (
    ("wrong CA", "tls-wrong-ca"),
    ("wrong host name", "tls-wrong-name"),
    ("refused our certificate", "tls-client-certificate"),
    ("does not offer TLS", "tls-not-offered"),
    ("does not speak TLS", "tls-not-offered"),
    ("TLS connection failed", "tls-failed"),
)

CheckFunction = Callable[[], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to check.

    Attributes:
        name: its name in the checklist.
        check: yields the findings.
        stops_on_failure: whether the following steps are skipped if this one fails.
    """

    name: str
    check: CheckFunction
    stops_on_failure: bool = False


class Checks(ABC):
    """The checks of one system. A subclass lists its steps. :meth:`close` removes everything that the steps created."""

    @property
    @abstractmethod
    def where(self) -> str:
        """The place in readable form, without secrets."""

    @abstractmethod
    def steps(self) -> Sequence[Step]:
        """Return the steps in order."""

    def understand(self, exc: Exception) -> errors.RootcellarError | None:
        """Translate a driver's exception into one of our errors. Return ``None`` for any other exception."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Remove what the steps created, and close connections. Raises nothing if the server is gone."""


def passed(seen: str) -> Finding:
    """Return the finding that nothing is wrong. The runner adds the name of the step."""
    return Finding(check="", level=Level.OK, seen=seen)


def problem(code: str, seen: str, remedy: str = "") -> Finding:
    """Return a finding with a problem of the register.

    Args:
        code: the problem's name.
        seen: what the check saw.
        remedy: what to change, if that is more precise than the register's remedy.
    """
    entry = registered_problem(code)
    return Finding(check="", level=entry.level, seen=seen, problem=entry, remedy=remedy)


def problem_as(code: str, finding: Finding) -> Finding:
    """Return a finding as another problem, which describes the situation better."""
    return problem(code, finding.seen)


def failed(exc: errors.RootcellarError) -> Finding:
    """Return the finding for one of our errors."""
    return problem(code_of(exc), exc.what, exc.remedy)


def code_of(exc: errors.RootcellarError) -> str:
    """Return the name of an error in the register."""
    by_class = next((code for kind, code in _CODES if isinstance(exc, kind)), "store-error")
    if by_class == "certificate-expired":
        return by_class
    by_words = next((code for words, code in _TLS_WORDS if words in exc.what), None)
    if by_words is None and isinstance(exc, errors.CertificateRefused):
        return "tls-failed"
    return by_words or by_class


def is_about_tls(exc: errors.RootcellarError) -> bool:
    """Return True if an error means that TLS failed."""
    return code_of(exc).startswith(("tls-", "certificate-"))


def run(checks: Checks, on_begin: Callable[[str], object] = lambda name: None) -> Generator[Finding, None, None]:
    """Run the steps in order, and yield each finding at once.

    Args:
        checks: the checks to run.
        on_begin: called with the name of each step when it begins.
    """
    failed_step = ""
    is_closed = False
    try:
        for step in _steps_of(checks):
            if failed_step:
                yield Finding(check=step.name, level=Level.SKIPPED, seen=f"skipped: {failed_step} failed")
                continue
            on_begin(step.name)
            for finding in _run_step(step, checks):
                yield finding
                if finding.level is Level.FAILURE and step.stops_on_failure:
                    failed_step = step.name
        is_closed = True
        yield from _run_step(Step("cleaning up", lambda: _close(checks)), checks)
    finally:
        if not is_closed:
            checks.close()


def _close(checks: Checks) -> Iterable[Finding]:
    """Close the checks as a step without findings."""
    checks.close()
    return ()


def _steps_of(checks: Checks) -> Sequence[Step]:
    """Return the steps. An exception while they are listed becomes a finding."""
    try:
        return checks.steps()
    except Exception as exc:
        finding = found_in(exc, checks.understand)
        return [Step("settings", lambda: [finding], stops_on_failure=True)]


def found_in(
    exc: Exception, understand: Callable[[Exception], errors.RootcellarError | None] = lambda exc: None
) -> Finding:
    """Return the finding for an exception. ``understand`` translates a driver's exceptions."""
    error = exc if isinstance(exc, errors.RootcellarError) else understand(exc)
    if error is not None:
        return failed(error)
    return problem("check-failed", redact(f"{type(exc).__name__}: {' '.join(str(exc).split())}"))


def _run_step(step: Step, checks: Checks) -> Iterator[Finding]:
    began = time.monotonic()

    def completed(finding: Finding) -> Finding:
        return replace(finding, check=step.name, seconds=time.monotonic() - began)

    try:
        for finding in step.check():
            yield completed(finding)
    except Exception as exc:
        yield completed(found_in(exc, checks.understand))


def worst_of(findings: Iterable[Finding]) -> Level:
    """Return the most severe level of the findings."""
    found = {finding.level for finding in findings}
    return next((level for level in (Level.FAILURE, Level.WARNING) if level in found), Level.OK)


def first_of(findings: Sequence[Finding]) -> Finding | None:
    """Return what to fix first: the first failure, which may cause later ones, else the first warning."""
    for level in (Level.FAILURE, Level.WARNING):
        for finding in findings:
            if finding.level is level:
                return finding
    return None
