"""Makes every report valid UTF-8, because only such text can be sent between the processes of a test run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Iterator[Any]:
    """Write lone surrogates, which some tests store and log on purpose, as escapes."""
    report = yield
    report.sections = [(title, _plain(text)) for title, text in report.sections]
    if report.failed and _plain(report.longreprtext) != report.longreprtext:
        report.longrepr = _plain(report.longreprtext)
    return report


def _plain(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
