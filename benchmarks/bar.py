"""The goals of rootcellar, each as a ratio of two figures of the same run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.contenders import CELERY_DB, CELERY_DB_UNPOOLED, CELERY_REDIS, POSTGRES, RAW_DRIVER, REDIS, Contender

#: the figures of each round, by row and column
Found = Mapping[str, Mapping[str, Sequence[float]]]


@dataclass(frozen=True)
class Bar:
    """A goal of rootcellar in one row.

    Attributes:
        row: the row.
        than: the other contender.
        least: the minimum ratio.
        most: the maximum ratio. Without minimum and maximum, the ratio is only printed.
        other_row: the row of the other figure, if it is another row.
        other_name: the name of that row.
        ours: the compared contender.
    """

    row: str
    than: Contender
    least: float | None = None
    most: float | None = None
    other_row: str = ""
    other_name: str = ""
    ours: Contender = POSTGRES

    def verdict(self, found: Found) -> Verdict | None:
        """Compare, if both were measured."""
        ours = found.get(self.row, {}).get(self.ours.column, ())
        theirs = found.get(self.other_row or self.row, {}).get(self.than.column, ())
        ratios = [our / their for our, their in zip(ours, theirs, strict=False) if their]
        return Verdict(self, ratios) if ratios else None


@dataclass(frozen=True)
class Verdict:
    """A bar, and the ratios of the rounds."""

    bar: Bar
    ratios: Sequence[float]

    @property
    def is_met(self) -> bool:
        """Whether the median of the ratios reaches the bar."""
        ratio = median(self.ratios)
        least, most = self.bar.least, self.bar.most
        return (least is None or ratio >= least) and (most is None or ratio <= most)

    def __str__(self) -> str:
        name = self.bar.other_name or self.bar.than.column
        spread = f" ({_times(min(self.ratios))}-{_times(max(self.ratios))})" if len(self.ratios) > 1 else ""
        who = "" if self.bar.ours is POSTGRES else f"{self.bar.ours.column}: "
        return f"{who}{_times(median(self.ratios))} {name}{spread}{self._judgement()}"

    def _judgement(self) -> str:
        if self.bar.least is None and self.bar.most is None:
            return ""
        goal = f"at least {_times(self.bar.least)}" if self.bar.least else f"at most {_times(self.bar.most or 0)}"
        return f"; {goal}: {'met' if self.is_met else 'missed'}"


def _times(ratio: float) -> str:
    return f"1/{1 / ratio:,.0f}" if 0 < ratio <= 0.1 else f"{ratio:,.0f}x" if ratio >= 10 else f"{ratio:.2f}x"


BARS = (
    Bar("store_one", CELERY_REDIS, least=1.0),
    Bar("store_one", CELERY_DB, least=5),
    Bar("store_one", CELERY_DB_UNPOOLED, least=30),
    Bar("store_one", RAW_DRIVER, least=0.75),
    Bar("store_one", CELERY_REDIS, least=1.4, ours=REDIS),
    Bar("store_four", CELERY_REDIS, least=1.0),
    Bar("store_four", CELERY_REDIS, least=1.4, ours=REDIS),
    Bar("store_threads", CELERY_REDIS, least=1.5),
    Bar("store_relaxed", CELERY_REDIS, least=1.8),
    Bar("get", CELERY_DB_UNPOOLED, least=60),
    Bar("get", CELERY_REDIS, least=1.0),
    Bar("get", CELERY_REDIS, least=1.0, ours=REDIS),
    Bar("store_cpu", CELERY_REDIS),
    Bar("store_cpu", CELERY_DB),
    Bar("store_cpu", CELERY_REDIS, ours=REDIS),
    Bar("get_cpu", CELERY_REDIS),
    Bar("get_cpu", CELERY_DB),
    Bar("get_cpu", CELERY_REDIS, ours=REDIS),
    Bar("store_wal", CELERY_DB),
    Bar("store_wal", RAW_DRIVER, most=1.03),
    Bar("child_memory", CELERY_REDIS),
    Bar("child_memory", CELERY_DB),
    Bar("child_start", CELERY_REDIS),
    Bar("app_start", CELERY_REDIS),
    Bar("latency_p50", CELERY_REDIS, most=1.3),
    Bar("latency_p50", CELERY_REDIS, most=1.3, ours=REDIS),
    Bar("latency_p50", CELERY_DB, most=1 / 50),
    Bar("group", CELERY_REDIS, most=1.0),
    Bar("group", CELERY_DB, most=1 / 10),
    Bar("chord", CELERY_REDIS, most=1.0),
    Bar("chord", CELERY_DB, most=1 / 10),
    Bar("large_chord_part", POSTGRES, most=1.2, other_row="chord_part", other_name="a part of the smaller chord"),
    Bar("throughput", CELERY_REDIS, least=0.98),
    Bar("throughput", POSTGRES, other_row="throughput_ignored", other_name="ignore_result=True"),
    Bar("awaited_in_crowd", POSTGRES, least=0.9, other_row="awaited", other_name="none other waiting"),
)


def verdicts(found: Found, row: str) -> Iterator[Verdict]:
    """Yield the goals of a row and whether they are met."""
    for bar in BARS:
        if bar.row == row and (verdict := bar.verdict(found)):
            yield verdict
