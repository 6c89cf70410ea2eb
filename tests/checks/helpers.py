"""Helpers of the tests of ``rootcellar check``: running checks, and seeing that they leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import redis

from rootcellar.checks.choosing import broker_of, sections_for
from rootcellar.checks.findings import Finding, Level
from rootcellar.checks.steps import Checks, first_of, run
from rootcellar.checks.target import target_of
from tests.leaks import look as look_for_passwords
from tests.mariadb_server import MariaDBServer
from tests.servers import MongoServer, PostgresServer, RabbitServer, RedisServer

#: a test machine's port on which nothing listens
CLOSED = 1


@dataclass(frozen=True, repr=False)
class Seen:
    """The findings of a check."""

    findings: list[Finding]

    @property
    def failures(self) -> list[str]:
        return [finding.code for finding in self.findings if finding.level is Level.FAILURE]

    @property
    def warnings(self) -> list[str]:
        return [finding.code for finding in self.findings if finding.level is Level.WARNING]

    @property
    def first(self) -> str:
        finding = first_of(self.findings)
        return finding.code if finding else ""

    @property
    def skipped(self) -> list[str]:
        return [finding.check for finding in self.findings if finding.level is Level.SKIPPED]

    def of(self, code: str) -> Finding:
        return next(finding for finding in self.findings if finding.code == code)

    def __repr__(self) -> str:
        shown = [finding for finding in self.findings if finding.level is not Level.SKIPPED]
        return "\n".join(["", *(f"{one.level.value} {one.check}: {one.seen} {one.code}" for one in shown)])

    def line(self, check: str) -> Finding:
        return next(finding for finding in self.findings if finding.check == check)


def check(url: str, processes: int | None = 4, **conf: Any) -> Seen:
    """Check a result store, as ``rootcellar check URL`` does."""
    return _findings_of(sections_for(target_of({"result_backend": f"rootcellar+{url}", **conf}, processes)))


def check_broker(url: str, **conf: Any) -> Seen:
    """Check a broker, as ``rootcellar check broker`` does."""
    return _findings_of([broker_of(target_of({"broker_url": url, **conf}, 4))])


def check_rpc(broker: str, **conf: Any) -> Seen:
    return _findings_of(
        sections_for(target_of({"result_backend": "rootcellar-rpc://", "broker_url": broker, **conf}, 4))
    )


def _findings_of(sections: list[Checks]) -> Seen:
    found = [finding for checks in sections for finding in run(checks)]
    for finding in found:
        look_for_passwords(f"{finding.seen} {finding.advice}", f"a finding of {finding.check}")
    return Seen(found)


def assert_broken(seen: Seen, code: str, *words: str, also: tuple[str, ...] = ()) -> None:
    """Assert that one failure was found and is first; ``words`` are in what was seen.

    Args:
        seen: what was found.
        code: the name of the failure.
        words: texts in its line.
        also: warnings that are allowed beside it.
    """
    assert seen.failures == [code], seen
    assert seen.first == code
    assert set(seen.warnings) <= {*also}, seen
    for word in words:
        assert word in seen.of(code).seen
    assert seen.of(code).problem
    assert seen.of(code).advice


def assert_warned(seen: Seen, code: str, *words: str, also: tuple[str, ...] = ()) -> None:
    """Assert that there is one warning, with this name, and no failure."""
    assert seen.failures == [], seen
    assert set(seen.warnings) - {*also} == {code}, seen
    for word in words:
        assert word in seen.of(code).seen


def assert_healthy(seen: Seen, *, but_for: tuple[str, ...] = ()) -> None:
    """Assert that nothing is wrong, except warnings that are right for the test's server."""
    assert seen.failures == [], seen
    assert set(seen.warnings) <= {*but_for}, seen
    assert seen.skipped == []


# -- what is on a server


def on_postgres(server: PostgresServer, url: str) -> dict[str, Any]:
    """Return every table of a database with its rows, and every role."""
    found: dict[str, Any] = {"roles": server.execute("SELECT rolname FROM pg_roles ORDER BY 1")}
    with psycopg.connect(url, autocommit=True) as connection:
        tables = connection.execute(
            "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables "
            "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        for (table,) in tables:
            found[table] = sorted(map(str, connection.execute(b"TABLE " + table.encode()).fetchall()))
    return found


def on_mysql(server: MariaDBServer) -> dict[str, Any]:
    """Return every table of a server with its number of rows."""
    everything = "SELECT * FROM "
    tables = server.execute(
        "SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE' "
        "AND table_schema NOT IN ('mysql', 'performance_schema', 'sys')"
    )
    return {f"{schema}.{name}": server.execute(everything + f"`{schema}`.`{name}`") for schema, name in tables}


def on_redis(*servers: RedisServer) -> dict[str, Any]:
    """Return every key of every database with its value, and the channels that have subscribers."""
    found: dict[str, Any] = {}
    for server in servers:
        with redis.Redis.from_url(server.url) as client:
            for name in client.info("keyspace"):
                number = int(name.removeprefix("db"))
                with redis.Redis.from_url(server.database_url(number)) as database:
                    found.update({f"{number} {key!r}": database.dump(key) for key in database.scan_iter()})
            found[f"channels of {server.port}"] = client.pubsub_channels()
    return found


def on_mongo(server: MongoServer) -> dict[str, Any]:
    """Return every collection with its documents and indexes."""
    with server.client() as client:
        return {
            f"{name}.{collection}": (
                list(client[name][collection].find()),
                sorted(client[name][collection].index_information()),
            )
            for name in client.list_database_names()
            if name not in ("admin", "local", "config")
            for collection in client[name].list_collection_names()
        }


def on_rabbit(server: RabbitServer) -> str:
    """Return the names of all queues and exchanges."""
    return server.call("rabbit_amqqueue", "list_names", "[]") + server.call("rabbit_exchange", "list_names", "[]")


@contextmanager
def configured(server: RedisServer, **settings: Any) -> Iterator[None]:
    """Change the settings of a running Redis during a ``with`` block."""
    with server.client() as client:
        before = {name: client.config_get(name)[name] for name in (name.replace("_", "-") for name in settings)}
        try:
            for name, value in settings.items():
                client.config_set(name.replace("_", "-"), value)
            yield
        finally:
            for name, value in before.items():
                client.config_set(name, value)
