"""The benchmark of reading from the older table, with few results."""

from __future__ import annotations

from benchmarks.older.reading import LIMITS, measure
from tests.servers import PgBouncerServer, PostgresServer


def test_benchmark_of_reading_measures_every_call(
    postgres_server: PostgresServer, pgbouncer_server: PgBouncerServer
) -> None:
    found = [name for name, _, _ in measure(postgres_server, pgbouncer_server.through, 2, 50, 5)]
    assert found == list(LIMITS)
