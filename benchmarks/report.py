"""The table, for the terminal and for ``RESULTS.md``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks import contenders
from benchmarks.bar import Found, verdicts
from benchmarks.sizes import Sizes

ABOUT = """\
`rootcellar PostgreSQL` and every other contender on PostgreSQL commits to the disk (`fsync` and `synchronous_commit` \
are on) unless the row says otherwise. SQLite commits to the disk too. Redis keeps its results in memory only, \
rootcellar's and Celery's.

- **Celery db+postgresql** is measured as in a child of a prefork worker: Celery pools its connections there, and \
only there. **Unpooled** is the same backend anywhere else: a web process, or a worker of threads, gevent or solo. \
Where tasks run, the worker is a prefork worker and the client a web process.
- **psycopg alone** runs the statement that rootcellar stores a result with, prepared and in autocommit mode, and \
nothing around it: the limit. It reads by selecting one result. With threads each has a connection of its own.
- Results are some 100 bytes of JSON. The broker is a Redis server of its own. Every contender's results are read \
back and compared with what was stored.
- Rounds are interleaved: each contender once, then each again. A figure is the median of the rounds, with the least \
and the most of them. A ratio is the median of the ratios of the rounds, rootcellar on PostgreSQL to the other \
unless another is named.
- What takes Celery's database backend minutes, it does in one or two rounds only, or not at all (-). Its connections \
were counted while it waited for {waiting_slowly:,} results.
"""


@dataclass(frozen=True)
class Report:
    """The figures of a run.

    Attributes:
        rows: the titles of the rows, by their keys.
        found: the figures of each round, by row and column.
        heading: lines about the run, by name.
        sizes: the sizes of the run.
    """

    rows: Mapping[str, str]
    found: Found
    heading: Mapping[str, str]
    sizes: Sizes

    def markdown(self) -> str:
        """Return the text of ``RESULTS.md``."""
        columns = self._columns()
        lines = ["# What a result costs", "", "Written by `python -m benchmarks`; no figure by hand.", ""]
        lines += [f"- {name}: {text}" for name, text in self.heading.items()]
        lines += ["", ABOUT.format(waiting_slowly=self.sizes.waiting_slowly)]
        lines += [_line(["", *columns, "rootcellar PostgreSQL against"]), _line(["---"] * (len(columns) + 2))]
        for row, title in self.rows.items():
            figures = [_figures(self.found[row].get(column, ())) for column in columns]
            lines.append(_line([title, *figures, "<br>".join(self._verdicts(row))]))
        return "\n".join(lines) + "\n"

    def lines(self, row: str) -> Iterator[str]:
        """Yield the lines of a row for a terminal."""
        yield f"\n{self.rows[row]}"
        for column in self._columns():
            if figures := self.found[row].get(column):
                yield f"  {column:32}{_figures(figures)}"
        for verdict in self._verdicts(row):
            yield f"  -> {verdict}"

    def _columns(self) -> list[str]:
        return [c.column for c in contenders.ALL if any(c.column in figures for figures in self.found.values())]

    def _verdicts(self, row: str) -> list[str]:
        return [str(verdict) for verdict in verdicts(self.found, row)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _figures(figures: Sequence[float]) -> str:
    if not figures:
        return "-"
    middle = _figure(median(figures))
    return middle if len(figures) == 1 else f"{middle} ({_figure(min(figures))}-{_figure(max(figures))})"


def _figure(value: float) -> str:
    if value == int(value) or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
