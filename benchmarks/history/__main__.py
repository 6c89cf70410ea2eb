"""``python -m benchmarks.history``: fill a store with realistic history."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone

from benchmarks.history import postgres, through_store
from benchmarks.history.runs import Period, runs
from rootcellar.errors import RootcellarError
from rootcellar.stores import open_store
from rootcellar.urls import redact
from tests.servers import MissingServer, PostgresServer

LAYOUTS: dict[str, Callable[[], postgres.Layout]] = {
    "rootcellar": postgres.OwnLayout,
    "celery": postgres.CeleryLayout,
}


def main(arguments: Sequence[str]) -> int:
    """Generate; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.history", description="Fill a store with realistic history, the same for a seed."
    )
    parser.add_argument("--rows", type=int, default=50_000, help="how many results (default %(default)s)")
    parser.add_argument("--url", help="the store; without it, a PostgreSQL that lasts until Ctrl-C")
    parser.add_argument("--layout", choices=LAYOUTS, default="rootcellar", help="whose table (default %(default)s)")
    parser.add_argument("--days", type=float, default=30, help="how many days (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all choices (default %(default)s)")
    parser.add_argument("--end", type=_moment, help="when the history ends, as an ISO date (default now)")
    options = parser.parse_args(arguments)
    if options.rows < 1 or options.days <= 0:
        parser.error("--rows and --days must be positive")
    end = options.end or datetime.now(timezone.utc)
    period = Period(rows=options.rows, days=options.days, end=end, seed=options.seed)
    try:
        if options.url:
            return _fill(options.url, options.layout, period)
        with PostgresServer() as server:
            url = server.create_database()
            _fill(url, options.layout, period)
            print(f"{url}\nCtrl-C ends the server.", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(3600)
            return 0
    except (MissingServer, RootcellarError) as exc:
        print(redact(str(exc)), file=sys.stderr)
        return 1


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _fill(url: str, layout: str, period: Period) -> int:
    """Fill a store and print how fast; return the exit status."""
    started = time.monotonic()

    def progress(count: int) -> None:
        seconds = time.monotonic() - started
        print(f"{count:,} of {period.rows:,} rows, {count / seconds:,.0f} a second", file=sys.stderr, flush=True)

    if url.startswith(("postgresql://", "postgres://")):
        count = postgres.write(url, runs(period), LAYOUTS[layout](), progress)
    elif layout != "rootcellar":
        print("only PostgreSQL can have Celery's own table here", file=sys.stderr)
        return 2
    else:
        store = open_store(url)
        count = through_store.write(store, runs(period), progress)
        store.close()
    seconds = time.monotonic() - started
    print(f"{count:,} rows in {seconds:.1f} s, {count / seconds:,.0f} a second, with all indexes", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
