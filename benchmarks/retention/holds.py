"""``python -m benchmarks.retention.holds``: what holds cost a cleanup on PostgreSQL."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime, timedelta, timezone

import psycopg

from benchmarks.history import postgres
from benchmarks.history.runs import Period, runs
from benchmarks.machine import machine
from rootcellar.history.filters import Clock
from rootcellar.history.holds import place_hold
from rootcellar.maintenance.spares import Spares
from rootcellar.payloads import codec_of
from rootcellar.stores import Store, open_store
from rootcellar.stores.expiring import Due, Expiring
from rootcellar.stores.holding import Holding
from tests.servers import MissingServer, PostgresServer

#: results that one statement looks at
BATCH = 5_000
#: the holds of each case; nothing that they find exists, so that each case deletes the same rows
CASES: dict[str, tuple[str, ...]] = {
    "no hold": (),
    "five holds": (
        "task:law.* state:failed",
        "id:0000000000*",
        "worker:celery@gone-* done:2020-01-01..2020-02-01",
        "queue:audit runtime:>10d",
        "task:shop.pay since:2030-01-01",
    ),
    "five holds about arguments and results": (
        "kwargs.lawsuit:17",
        "args.order:law*",
        "result.lawsuit:any",
        "error:LawsuitError",
        "kwargs.customer.name:nobody*",
    ),
}


def main(arguments: Sequence[str]) -> int:
    """Measure; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retention.holds", description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000, help="how many results (default %(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="the best of so many turns counts (default %(default)s)")
    options = parser.parse_args(arguments)
    try:
        with PostgresServer() as server:
            print(f"{machine()}\n{options.rows:,} expired results, batches of {BATCH:,}")
            for name, figure in measure(server.create_database(), options.rows, options.turns):
                print(f"{name:<45} {figure}", flush=True)
    except MissingServer as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


def measure(url: str, rows: int, turns: int) -> Iterator[tuple[str, str]]:
    """Yield what was measured, and the figure."""
    now = datetime.now(timezone.utc)
    postgres.write(url, runs(Period(rows=rows, days=30, end=now, seed=0)), postgres.OwnLayout(), lambda count: None)
    with closing(open_store(url)) as store, psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT * FROM celery_taskmeta")
        best = dict.fromkeys(CASES, float("inf"))
        # in turns, so that each case has the same share of a machine's slower moments
        for _ in range(turns):
            for name, filters in CASES.items():
                _refill(connection)
                numbers = [
                    place_hold(store, text, Clock(now, timezone.utc), reason="benchmark", by="benchmark").id
                    for text in filters
                ]
                best[name] = min(best[name], _seconds(store, now))
                holding = store.ability(Holding)
                assert holding is not None
                for number in numbers:
                    holding.release_hold(number, "benchmark", now)
    for name, seconds in best.items():
        ratio = f", {seconds / best['no hold']:.2f}x" if name != "no hold" else ""
        yield name, f"{seconds * 1_000:.0f} ms, {rows / seconds:,.0f} results/s{ratio}"


def _refill(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    connection.execute("TRUNCATE celery_taskmeta")
    connection.execute("INSERT INTO celery_taskmeta SELECT * FROM kept")
    connection.execute("UPDATE celery_taskmeta SET expires_at = now() - interval '1 hour'")
    connection.execute("VACUUM ANALYZE celery_taskmeta")


def _seconds(store: Store, now: datetime) -> float:
    """Delete every result as a cleanup does; return the seconds."""
    expiring = store.ability(Expiring)
    assert expiring is not None
    spares, after = Spares(store, codec_of({})), None
    began = time.perf_counter()
    while True:
        due = Due(now=now + timedelta(hours=1), limit=BATCH, after=after, spared=spares.condition())
        done = expiring.delete_expired_tasks(due)
        assert not done.spared
        if done.last is None:
            return time.perf_counter() - began
        after = done.last


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
