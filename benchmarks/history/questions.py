"""``python -m benchmarks.history.questions``: the time of each question about millions of results.

Three databases on one PostgreSQL have generated history: rootcellar's table, a small one, and Celery's own table with
the content of the large one. Celery's is asked with the SQL of the set-up guides, or with the plain SQL of the same
question. Rounds are interleaved; a figure is the median of the rounds, without the first.
"""

from __future__ import annotations

import argparse
import itertools
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

import psycopg

from benchmarks.history import postgres
from benchmarks.history.runs import Period, runs
from benchmarks.machine import machine
from rootcellar import open_history
from rootcellar.history.history import History
from rootcellar.stores.counting import Counted
from tests.servers import MissingServer, PostgresServer

RESULTS = Path(__file__).parents[1] / "RESULTS.md"
#: the section of RESULTS.md that this command writes begins with this line
SECTION = "## Questions about history"
#: the pages of the comparison of a late page with the first one
LATE_PAGE = 1_000
#: the most rounds of a statement that takes more than a second
SLOW_ROUNDS = 2

ABOUT = """\
Written by `python -m benchmarks.history.questions`; no figure by hand. Milliseconds as a client sees them, the median \
of the rounds. `{rows:,} rows` and `{small:,} rows` are rootcellar's table; `Celery's table` has the same {rows:,} \
results as Celery's database backend stores them, with its own indexes. Its SQL is that of the set-up guides if they \
have it, otherwise the plain SQL of the same question. "-": Celery's table lacks what the question needs.
"""


@dataclass(frozen=True)
class Question:
    """A question.

    Attributes:
        title: the row's title.
        ask: asks rootcellar.
        sql: the SQL for Celery's own table; empty if it lacks what the question needs.
    """

    title: str
    ask: Callable[[History], object]
    sql: str = ""


def _page(filter: str, size: int = 50) -> Callable[[History], object]:
    return lambda history: history.tasks(filter, size=size).page()


def _tree(history: History) -> object:
    (task,) = history.tasks("has:children state:succeeded", size=1).page().records
    return history.tree(task.task_id)


def _failure(history: History) -> object:
    return history.failure(history.failures("since:7d", limit=1)[0].group)


QUESTIONS = (
    Question("the 10 newest tasks", _page("", 10), "SELECT * FROM celery_taskmeta ORDER BY date_done DESC LIMIT 10"),
    Question(
        "the 10 newest failures",
        _page("state:failed", 10),
        "SELECT task_id, name, traceback FROM celery_taskmeta WHERE status = 'FAILURE'"
        " ORDER BY date_done DESC LIMIT 10",
    ),
    Question(
        "a page of the last 24 hours",
        _page("since:24h"),
        "SELECT task_id, name, status, date_done, result FROM celery_taskmeta"
        " WHERE date_done > now() - interval '24 hours' ORDER BY date_done DESC LIMIT 50",
    ),
    Question(
        "a page of one task's failures of the last 7 days",
        _page("task:shop.reports.tasks.export_csv state:failed since:7d"),
        "SELECT task_id, result, date_done FROM celery_taskmeta WHERE name = 'shop.reports.tasks.export_csv'"
        " AND status = 'FAILURE' AND date_done > now() - interval '7 days' ORDER BY date_done DESC LIMIT 50",
    ),
    Question(
        "a page of the tasks of a module, by name",
        _page("task:shop.reports.*"),
        "SELECT task_id, name, status FROM celery_taskmeta WHERE name LIKE 'shop.reports.%'"
        " ORDER BY date_done DESC LIMIT 50",
    ),
    Question(
        "a page by an argument, of the last hour",
        _page("kwargs.format:csv since:1h"),
        "SELECT task_id FROM celery_taskmeta WHERE convert_from(kwargs, 'UTF8') LIKE '%\"format\": \"csv\"%'"
        " AND date_done > now() - interval '1 hour' ORDER BY date_done DESC LIMIT 50",
    ),
    Question("how many tasks", lambda history: history.count(), "SELECT count(*) FROM celery_taskmeta"),
    Question(
        "how many failures of a task in 30 days",
        lambda history: history.count("task:shop.orders.tasks.charge_card state:failed since:30d"),
        "SELECT count(*) FROM celery_taskmeta WHERE name = 'shop.orders.tasks.charge_card' AND status = 'FAILURE'"
        " AND date_done > now() - interval '30 days'",
    ),
    Question(
        "tasks by name and state, last 24 hours",
        lambda history: history.stats("since:24h"),
        "SELECT name, status, count(*) FROM celery_taskmeta WHERE date_done > now() - interval '24 hours'"
        " GROUP BY name, status",
    ),
    Question(
        "tasks by name and state, 30 days",
        lambda history: history.stats("since:30d"),
        "SELECT name, status, count(*) FROM celery_taskmeta GROUP BY name, status",
    ),
    Question(
        "tasks by hour and state, last 7 days",
        lambda history: history.timeline("since:7d", by="hour"),
        "SELECT date_trunc('hour', date_done), status, count(*) FROM celery_taskmeta"
        " WHERE date_done > now() - interval '7 days' GROUP BY 1, 2",
    ),
    Question("p50, p95 and p99 of the run time, last 24 hours", lambda history: history.percentiles("since:24h")),
    Question("p50, p95 and p99 of the run time, 30 days", lambda history: history.percentiles("since:30d")),
    Question("the 10 slowest tasks of the last 24 hours", lambda history: history.slowest("since:24h", limit=10)),
    Question(
        "the worst groups of failures, last 24 hours",
        lambda history: history.failures("since:24h"),
        "SELECT name, count(*), max(date_done) FROM celery_taskmeta"
        " WHERE status = 'FAILURE' AND date_done > now() - interval '24 hours' GROUP BY name ORDER BY 2 DESC LIMIT 10",
    ),
    Question(
        "the worst groups of failures, 30 days",
        lambda history: history.failures("since:30d"),
        "SELECT name, count(*), max(date_done) FROM celery_taskmeta"
        " WHERE status = 'FAILURE' GROUP BY name ORDER BY 2 DESC LIMIT 10",
    ),
    Question("one group of failures", _failure),
    Question("this week and the week before", lambda history: history.compare("since:7d", "since:14d until:7d")),
    Question("stuck tasks", lambda history: history.stuck()),
    Question("the tree of a workflow", _tree),
)


@dataclass(frozen=True)
class Row:
    """The milliseconds of a question, medians.

    Attributes:
        title: the question.
        large, small: in rootcellar's tables.
        theirs: in Celery's own table; ``None`` if it was not asked.
    """

    title: str
    large: float
    small: float
    theirs: float | None

    def cells(self) -> list[str]:
        """Return the cells of the table."""
        theirs = ("-", "-") if self.theirs is None else (_ms(self.theirs), f"{self.theirs / self.large:,.1f}x")
        return [self.title, _ms(self.large), _ms(self.small), f"{self.large / self.small:.1f}x", *theirs]


def main(arguments: Sequence[str]) -> int:
    """Fill three databases, ask, and print; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.history.questions", description="Measure questions about millions of results."
    )
    parser.add_argument("--rows", type=int, default=5_000_000, help="results (default %(default)s)")
    parser.add_argument("--small", type=int, default=50_000, help="results of the small table (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is asked (default %(default)s)")
    parser.add_argument("--write", action="store_true", help="write the table into RESULTS.md")
    options = parser.parse_args(arguments)
    try:
        with ExitStack() as stack:
            server = stack.enter_context(PostgresServer(shared_buffers="1GB", max_wal_size="8GB"))
            text = _measure(server, options.rows, options.small, options.rounds, stack, arguments)
    except MissingServer as exc:
        print(exc, file=sys.stderr)
        return 1
    print(text)
    if options.write:
        write_section(text)
        print(f"Written to {RESULTS}")
    return 0


def section_of(results: str) -> str:
    """Return the section that this command wrote into a text of RESULTS.md; empty if there is none."""
    _, found, section = results.partition(SECTION)
    return found + section


def write_section(text: str) -> None:
    """Replace the section in RESULTS.md."""
    whole = RESULTS.read_text(encoding="utf-8")
    before = whole.removesuffix(section_of(whole)).rstrip("\n")
    RESULTS.write_text(f"{before}\n\n{text}", encoding="utf-8")


def _measure(
    server: PostgresServer, rows: int, small: int, rounds: int, stack: ExitStack, arguments: Sequence[str]
) -> str:
    end = datetime.now(timezone.utc)
    large_url, small_url, theirs_url = (server.create_database() for _ in range(3))
    for url, count, layout in (
        (large_url, rows, postgres.OwnLayout()),
        (small_url, small, postgres.OwnLayout()),
        (theirs_url, rows, postgres.CeleryLayout()),
    ):
        _fill(url, count, layout, end)
    large, smaller = (stack.enter_context(open_history(url)) for url in (large_url, small_url))
    for history in (large, smaller):
        _count(history)
    with psycopg.connect(theirs_url, autocommit=True) as theirs:
        found = [row for question in QUESTIONS for row in [_ask(question, large, smaller, theirs, rounds)]]
    pages = _pages(large, rounds)
    heading = {
        "Questions": f"`{shlex.join(['python', '-m', 'benchmarks.history.questions', *arguments])}`,"
        f" {end:%Y-%m-%d %H:%M} UTC, {machine()}",
        "Server": "PostgreSQL with `shared_buffers` of 1 GB, on the same machine",
    }
    return "".join(f"{line}\n" for line in _lines(heading, rows, small, found, pages))


def _lines(
    heading: Mapping[str, str], rows: int, small: int, found: Sequence[Row], pages: Mapping[str, tuple[float, float]]
) -> Iterator[str]:
    yield from (SECTION, "", ABOUT.format(rows=rows, small=small))
    yield from (f"- {name}: {text}" for name, text in heading.items())
    yield ""
    titles = ["question", f"{rows:,} rows (ms)", f"{small:,} rows (ms)", "ratio", "Celery's table (ms)", "ratio"]
    for cells in (titles, ["---"] * len(titles), *(row.cells() for row in found)):
        yield f"| {' | '.join(cells)} |"
    yield ""
    for title, (first, late) in pages.items():
        yield f"- {title}: page 1 takes {_ms(first)} ms, page {LATE_PAGE:,} {_ms(late)} ms, {late / first:.2f}x."


def _fill(url: str, rows: int, layout: postgres.Layout, end: datetime) -> None:
    started = time.monotonic()
    period = Period(rows=rows, days=30, end=end)
    marks = itertools.count(1)

    def progress(count: int) -> None:
        if next(marks) % 10 == 0:
            print(f"{count:,} of {rows:,} rows", file=sys.stderr, flush=True)

    postgres.write(url, runs(period), layout, progress)
    print(f"{rows:,} rows in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def _count(history: History) -> None:
    """Bring the counts up to date."""
    counted = history.store.ability(Counted)
    assert counted is not None
    started = time.monotonic()
    while not counted.roll(budget=30.0).is_done:
        print(f"counting, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    print(f"counted in {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)


def _ask(question: Question, large: History, small: History, theirs: psycopg.Connection[Any], rounds: int) -> Row:
    times: dict[str, list[float]] = {"large": [], "small": [], "theirs": []}
    for _ in range(rounds + 1):
        times["large"].append(_timed(lambda: question.ask(large)))
        times["small"].append(_timed(lambda: question.ask(small)))
        is_slow = len(times["theirs"]) > SLOW_ROUNDS and times["theirs"][-1] > 1_000
        if question.sql and not is_slow:
            times["theirs"].append(_timed(lambda: theirs.execute(question.sql).fetchall()))
    row = Row(
        question.title,
        median(times["large"][1:]),
        median(times["small"][1:]),
        median(times["theirs"][1:]) if question.sql else None,
    )
    print("  ".join(row.cells()), file=sys.stderr, flush=True)
    return row


def _pages(history: History, rounds: int) -> dict[str, tuple[float, float]]:
    """Return the milliseconds of the first page and of a late one, by what is listed."""
    lists = {"all tasks": "", "failures": "state:failed", "one task": "task:shop.mail.tasks.digest"}
    found = {title: _page_times(history, filter, rounds) for title, filter in lists.items()}
    return {title: times for title, times in found.items() if times is not None}


def _page_times(history: History, filter: str, rounds: int) -> tuple[float, float] | None:
    """Return the milliseconds of the first page and of a late one; ``None`` if the list is shorter."""
    cursor: str | None = None
    for _ in range(LATE_PAGE - 1):
        cursor = history.tasks(filter, after=cursor, with_values=False).page().cursor
        if cursor is None:
            return None
    first, late = [], []
    for _ in range(4 * rounds + 1):
        first.append(_timed(lambda: history.tasks(filter).page()))
        late.append(_timed(lambda: history.tasks(filter, after=cursor).page()))
    return median(first[1:]), median(late[1:])


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1_000


def _ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
