"""Checks the rules of retention. No server is needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rootcellar.checks.findings import Finding
from rootcellar.checks.steps import problem
from rootcellar.errors import ConfigurationError
from rootcellar.opening import can_archive
from rootcellar.retention.policy import read_retention
from rootcellar.retention.rules import ARCHIVE, shadowed


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
    url = str(conf.get("result_backend") or "")
    if retention.archiving() is not None and url and not can_archive(url):
        archiving = [str(rule.index + 1) for rule in retention.rules if rule.then == ARCHIVE]
        yield problem(
            "archive-impossible",
            f"{'rule' if len(archiving) == 1 else 'rules'} {', '.join(archiving)} of result_retention: this store "
            "archives nothing",
        )
    for rule, earlier in shadowed(retention.rules):
        yield problem(
            "rule-never-counts",
            f"rule {rule.index + 1} ({rule}) never counts, because rule {earlier.index + 1} ({earlier}) comes first",
        )
