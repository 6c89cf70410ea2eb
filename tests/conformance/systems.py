"""The table of systems and features in docs/systems.md: the conformance suites write it, and check that it is true.

A feature is a group of tests. A store has it if every test of the group passed in at least one pool. A run fails if a
"yes" is not true; ``--write-systems`` writes what the run found, and keeps the cells of groups that it did not run
completely.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rootcellar.testing.under_test import StoreUnderTest, WorkerUnderTest

#: reasons to skip that do not contradict the table: it is about the newest Celery, and about servers with TLS
_OF_ANOTHER_VERSION = re.compile(r"Celery before |this \w+ is built without TLS")
PAGE = Path(__file__).parents[2] / "docs" / "systems.md"
#: not for users
UNLISTED = {"memory", "dual"}
TITLES = {
    "sqlite": "SQLite",
    "postgres": "PostgreSQL",
    "pgbouncer": "PostgreSQL by PgBouncer",
    "mysql": "MySQL, MariaDB",
    "redis": "Redis",
    "redis-tls": "Redis by TLS",
    "redis-socket": "Redis by socket",
    "redis-sentinel": "Redis Sentinel",
    "redis-cluster": "Redis Cluster",
    "mongodb": "MongoDB",
    "hybrid": "Hybrid",
    "write-behind": "Hybrid, write-behind",
}

#: the features, in the order of the table: (suite, class) -> name
FEATURES = {
    ("stores", "TestTasks"): "a SUCCESS is never overwritten, by any thread or process",
    ("stores", "TestReplacing"): "values encrypted with a new key: `rootcellar rekey`",
    ("stores", "TestPayloads"): "every payload is read back exactly",
    ("stores", "TestScan"): "reading all records, page by page",
    ("stores", "TestExpiry"): "expiry and cleanup",
    ("stores", "TestOpening"): "many processes, threads, forks",
    ("stores", "TestWatching"): "notifications of results, and polling",
    ("stores", "TestGroups"): "saved groups",
    ("stores", "TestChords"): "chord parts counted once, claims with a lease",
    ("stores", "TestLeaders"): "one leader among processes",
    ("stores", "TestTables"): "tables: names, made by hand, plain SQL",
    ("stores", "TestQueries"): "queries: `rootcellar history`",
    ("stores", "TestSent"): "tasks that were sent: `result_track_sent`",
    ("stores", "TestMirroring"): "migration: mirrors, copies and burials",
    ("stores", "TestStreaming"): "migration: walks over all records and groups",
    ("stores", "TestSharedValues"): "migration: values that all processes share",
    ("backend", "TestResults"): "Celery: results, children, revoking",
    ("backend", "TestStates"): "Celery: states, progress, retries",
    ("backend", "TestExceptions"): "Celery: exceptions",
    ("backend", "TestValues"): "Celery: values, up to 50 MB",
    ("backend", "TestGroups"): "Celery: groups",
    ("backend", "TestChains"): "Celery: chains, links, errbacks",
    ("backend", "TestFailedParents"): "Celery: errors of parents and headers",
    ("backend", "TestChords"): "Celery: chords",
    ("backend", "TestReplace"): "Celery: replaced tasks",
    ("backend", "TestStamps"): "Celery: stamps",
    ("backend", "TestOneBackend"): "Celery: one backend in each process",
    ("backend", "TestClientsOfDifferentSettings"): "Celery: clients with different settings",
    ("backend", "TestSettings"): "Celery's settings",
    ("backend", "TestWatching"): "`rootcellar.watch`",
    **{
        ("backend", pool): f"workers: {pool}"
        for pool in ("prefork", "threads", "gevent", "eventlet", "solo", "inside the client's process")
    },
}

Cell = tuple[str, str]


@dataclass
class Found:
    """A run's outcomes for a cell: the best outcome of each of its tests in any pool, and the number of its tests."""

    total: int = 0
    ends: dict[str, str] = field(default_factory=dict)
    reasons: set[str] = field(default_factory=set)

    def note(self, test: str, outcome: str) -> None:
        worst_first = ("failed", "passed", "skipped")
        known = self.ends.get(test, outcome)
        self.ends[test] = min(known, outcome, key=worst_first.index)

    def is_whole(self) -> bool:
        return len(self.ends) == self.total

    def has_failed(self) -> bool:
        return "failed" in self.ends.values()

    def text(self) -> str:
        passed = list(self.ends.values()).count("passed")
        if passed == self.total:
            return "yes"
        return f"{passed} of {self.total}" if passed else "no"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("systems")
    group.addoption("--write-systems", action="store_true", help="write the table of systems from what this run finds")
    group.addoption("--systems-page", default=str(PAGE), help="where that table is")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(SystemsTable(config), "systems-table")


class SystemsTable:
    """A pytest plugin that collects the outcome of each test by system."""

    def __init__(self, config: pytest.Config) -> None:
        self._page = Path(config.getoption("--systems-page"))
        self._is_to_be_written = bool(config.getoption("--write-systems"))
        self._found: dict[Cell, Found] = defaultdict(Found)
        self._claims = read_claims(self._page.read_text(encoding="utf-8")) if self._page.exists() else {}
        self._untrue: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Add the system and the feature to each test, before any is deselected."""
        tests: dict[Cell, set[str]] = defaultdict(set)
        about: list[tuple[pytest.Item, Cell, str]] = []
        for item in items:
            for cell, test in cells_of(item):
                tests[cell].add(test)
                about.append((item, cell, test))
        for item, cell, test in about:
            item.user_properties.append(("system", (*cell, test, len(tests[cell]))))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            for name, value in report.user_properties:
                if name == "system":
                    self._note(report, *value)

    def _note(self, report: pytest.TestReport, system: str, feature: str, test: str, total: int) -> None:
        found = self._found[system, feature]
        found.total = total
        why = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
        if _OF_ANOTHER_VERSION.match(why) and not self._is_to_be_written:
            found.note(test, "passed")
            return
        found.note(test, report.outcome)
        if report.outcome == "skipped" and why:
            found.reasons.add(why)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not self._found or hasattr(session.config, "workerinput"):
            return
        whole = {cell: found for cell, found in self._found.items() if found.is_whole()}
        if self._is_to_be_written:
            cells = {**self._claims, **{cell: found.text() for cell, found in whole.items() if not found.has_failed()}}
            self._page.write_text(page(cells), encoding="utf-8")
            return
        for (system, feature), found in whole.items():
            if self._claims.get((system, feature)) == "yes" and found.text() != "yes":
                why = f" ({'; '.join(sorted(found.reasons))})" if found.reasons else ""
                self._untrue.append(f"{system}, {feature}: the page says yes, this run {found.text()}{why}")
        if self._untrue and session.exitstatus == 0:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._untrue:
            terminalreporter.section(f"{self._page.name} is not true (--write-systems writes it)")
            for line in self._untrue:
                terminalreporter.line(line)


def cells_of(item: pytest.Item) -> Iterable[tuple[Cell, str]]:
    """Yield the cells of a test, and its name there, which is the same in every pool."""
    params = getattr(getattr(item, "callspec", None), "params", {})
    worker = next((value for value in params.values() if isinstance(value, WorkerUnderTest)), None)
    store = worker.store if worker else params.get("under_test")
    cls = getattr(item, "cls", None)
    if not isinstance(store, StoreUnderTest) or store.name.partition(" ")[0] in UNLISTED or cls is None:
        return
    key = cls.__name__
    if worker and key == "TestEssentials":
        key = "inside the client's process" if worker.pool == "inside" else worker.pool
    feature = FEATURES.get(("backend" if worker else "stores", key))
    if feature:
        name = item.name.replace(str(worker or store), "*")
        yield (TITLES.get(store.name, store.name), feature), f"{cls.__name__}::{name}"


def page(cells: dict[Cell, str]) -> str:
    """Return the text of the page."""
    present = {system for system, _ in cells}
    systems = [title for title in TITLES.values() if title in present]
    systems += sorted(present - set(systems))
    lines = [_INTRODUCTION, "| | " + " | ".join(systems) + " |", "|---" * (len(systems) + 1) + "|"]
    for feature in FEATURES.values():
        row = [cells.get((system, feature), "-") for system in systems]
        lines.append(f"| {feature} | " + " | ".join(row) + " |")
    return "\n".join([*lines, ""])


def read_claims(text: str) -> dict[Cell, str]:
    """Return the cells of a page that :func:`page` wrote."""
    rows = [re.split(r" *\| *", line.strip())[1:-1] for line in text.splitlines() if line.startswith("|")]
    if not rows:
        return {}
    systems = rows[0][1:]
    return {
        (system, row[0]): cell
        for row in rows[2:]
        for system, cell in zip(systems, row[1:], strict=True)
        if cell not in ("-", "")
    }


_INTRODUCTION = """# What works on which system

This page shows which feature works on which system. `make systems` wrote the table from the two suites that every store
must pass (`tests/test_store_conformance.py` and `tests/test_backend_conformance.py`). Each line is a group of tests:

- *yes*: all tests passed on this system;
- a number: so many of the tests apply, and passed;
- *no*: no test applies (for example, Redis has no tables);
- *-*: not all tests were run, or some failed.

If a cell says *yes* and a test fails, the run of the tests fails. MySQL means MariaDB 10.11 here, and MongoDB a server
that speaks its protocol: see [MySQL](mysql.md) and [MongoDB](mongodb.md).
"""
