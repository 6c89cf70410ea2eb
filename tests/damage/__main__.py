"""``python -m tests.damage --rounds 100000 --seed 1 [--store NAME]``: starts servers of its own."""

from __future__ import annotations

import argparse
import logging
import secrets
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack

from tests.damage import places
from tests.damage.run import report, run
from tests.mariadb_server import MariaDBServer
from tests.servers import MongoServer, PostgresServer, RedisServer


def opened(stack: ExitStack) -> dict[str, Callable[[], places.Place]]:
    """Return functions that open each place, on servers that start when first needed and end with the stack."""

    def postgres() -> str:
        return stack.enter_context(PostgresServer()).create_database()

    def behind() -> places.Place:
        cache = stack.enter_context(RedisServer(appendonly=True, appendfsync="no"))
        return places.BehindPlace(postgres(), cache.database_url(1))

    return {
        "postgres": lambda: places.PostgresPlace(postgres()),
        "mysql": lambda: places.MySQLPlace(
            stack.enter_context(MariaDBServer(innodb_flush_log_at_trx_commit=0)).create_database()
        ),
        "sqlite": lambda: places.SQLitePlace(
            f"sqlite:///{stack.enter_context(tempfile.TemporaryDirectory(dir='/dev/shm'))}/results.sqlite3"
        ),
        "redis": lambda: places.RedisPlace(stack.enter_context(RedisServer()).database_url(1)),
        "mongodb": lambda: places.MongoPlace(stack.enter_context(MongoServer()).new_database()),
        "write-through": lambda: places.HybridPlace(postgres(), stack.enter_context(RedisServer()).database_url(1)),
        "write-behind": behind,
    }


def main() -> None:
    """Read the command line, run, and print what was tried."""
    parser = argparse.ArgumentParser(prog="python -m tests.damage")
    parser.add_argument("--rounds", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--store", action="append", default=[])
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    print(f"seed {given.seed}", flush=True)
    started = time.monotonic()
    with ExitStack() as stack:
        chosen = {
            name: open_place for name, open_place in opened(stack).items() if not given.store or name in given.store
        }
        counts = run(chosen, given.rounds, given.seed, say=lambda text: print(text, flush=True))
    print(report(counts))
    print(f"\n{time.monotonic() - started:.0f} s in all")


if __name__ == "__main__":
    main()
