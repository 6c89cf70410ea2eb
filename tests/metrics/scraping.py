"""Reads metrics as Prometheus does."""

from __future__ import annotations

import math
from collections.abc import Mapping

import httpx
from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: str) -> Samples:
    """Return the value of each series in a text of metrics, by its name and its sorted labels."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found, f"twice: {key}"
            assert not math.isnan(sample.value), key
            found[key] = sample.value
    return found


def scrape(url: str) -> Samples:
    """Return the metrics at a URL."""
    return parsed(httpx.get(url, timeout=20).raise_for_status().text)


def value(samples: Samples, name: str, labels: Mapping[str, str] | None = None) -> float:
    """Return the value of one series."""
    return samples[name, tuple(sorted((labels or {}).items()))]


def total(samples: Samples, name: str) -> float:
    """Return the sum of all series of a name."""
    return sum(number for (series, _), number in samples.items() if series == name)
