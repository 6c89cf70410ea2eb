"""Writes the tables of docs/metrics.md from the list of metrics.

``python -m tools.metrics_reference docs/metrics.md`` writes them into the page.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from rootcellar.metrics.catalogue import OF_A_PROCESS, OF_A_STORE, Kind, Metric

_PLACE = re.compile(r"(<!-- metrics of (\w+) -->\n).*?(<!-- end of metrics -->)", re.DOTALL)
_TABLES = {"store": OF_A_STORE, "process": OF_A_PROCESS}


def table(metrics: tuple[Metric, ...]) -> str:
    """Return a table in Markdown."""
    lines = ["| metric | type | labels | what it is | needs |", "|---|---|---|---|---|"]
    for metric in metrics:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind.value} | {labels} | {_about(metric)} | {metric.needs} |")
    return "\n".join(lines) + "\n"


def _about(metric: Metric) -> str:
    if metric.kind is not Kind.HISTOGRAM:
        return metric.help
    first, last = metric.buckets[0], metric.buckets[-1]
    return f"{metric.help} The buckets end at {first:,.10g}, …, {last:,.10g}."


def fill_in(page: str) -> str:
    """Return a page with the current tables."""
    return _PLACE.sub(lambda match: f"{match[1]}\n{table(_TABLES[match[2]])}\n{match[3]}", page)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(fill_in(path.read_text(encoding="utf-8")), encoding="utf-8")
