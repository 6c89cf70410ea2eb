"""Checks the rules of retention. No server is needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rootcellar.checks.findings import Finding
from rootcellar.checks.steps import problem
from rootcellar.errors import ConfigurationError
from rootcellar.retention.policy import read_retention
from rootcellar.retention.rules import shadowed


def rules_of(conf: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what is wrong with the rules in Celery's settings.

    Args:
        conf: the settings.
    """
    try:
        retention = read_retention(conf)
    except ConfigurationError as exc:
        yield problem("settings-wrong", f"{exc.what}: {exc.remedy}")
        return
    for rule, earlier in shadowed(retention.rules):
        yield problem(
            "rule-never-counts",
            f"rule {rule.index + 1} ({rule}) never counts, because rule {earlier.index + 1} ({earlier}) comes first",
        )
