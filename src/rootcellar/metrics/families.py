"""Values of metrics, and their text for Prometheus. The only module that imports prometheus_client, when it is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import accumulate
from typing import Any
from urllib.parse import urlsplit

from rootcellar.metrics import catalogue
from rootcellar.metrics.catalogue import Kind, Metric
from rootcellar.support.imports import import_failure

#: what installs prometheus_client
INSTALL = "pip install 'rootcellar[metrics]'"


@dataclass(frozen=True, slots=True)
class Distribution:
    """The value of one series of a histogram.

    Attributes:
        counts: how many values are in each bucket alone; the last bucket has no upper limit.
        total: the sum of all values.
    """

    counts: Sequence[float]
    total: float

    def __bool__(self) -> bool:
        """Return whether there is a value."""
        return any(self.counts)


@dataclass(frozen=True, slots=True)
class Family:
    """A metric with its values.

    Attributes:
        metric: the metric.
        values: the value of each series, by the values of the labels. Each value of a label is safe to print.
    """

    metric: Metric
    values: dict[tuple[str, ...], float | Distribution] = field(default_factory=dict)


def build_info(url: object) -> Family:
    """Return the version of rootcellar, and the kind of the store with this URL."""
    scheme = urlsplit(str(url).removeprefix("rootcellar+")).scheme
    return Family(catalogue.BUILD_INFO, {(version("rootcellar"), scheme): 1.0})


def check_installed(where: str) -> None:
    """Import prometheus_client.

    Raises:
        DriverMissing: it is not installed.
        DriverBroken: it cannot be imported.
    """
    try:
        import prometheus_client  # noqa: F401
    except ImportError as exc:
        raise import_failure(exc, {"prometheus_client"}, "prometheus_client", where=where, install=INSTALL) from exc


def exposition(families: Iterable[Family], accept: str = "") -> tuple[bytes, str]:
    """Return the text of metrics in the format that a client accepts, and its content type.

    Args:
        families: the metrics; each at most once.
        accept: the header ``Accept`` of the request.
    """
    from prometheus_client.exposition import choose_encoder

    encode: Any
    encode, content_type = choose_encoder(accept)
    return encode(_Registry(list(families))), content_type


class _Registry:
    """Looks like a registry of prometheus_client."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Any]:
        return map(as_prometheus, self._families)


def as_prometheus(family: Family) -> Any:
    """Return a family as one of prometheus_client."""
    from prometheus_client import core

    metric = family.metric
    kinds: dict[Kind, Any] = {
        Kind.COUNTER: core.CounterMetricFamily,
        Kind.GAUGE: core.GaugeMetricFamily,
        Kind.HISTOGRAM: core.HistogramMetricFamily,
    }
    made = kinds[metric.kind](metric.name, metric.help, labels=metric.labels)
    for labels, value in family.values.items():
        if isinstance(value, Distribution):
            limits = [*map(str, metric.buckets), "+Inf"]
            made.add_metric(labels, list(zip(limits, accumulate(value.counts), strict=True)), value.total)
        else:
            made.add_metric(labels, value)
    return made
