"""``rootcellar check`` on PostgreSQL: each broken set-up is reported by name, and a healthy one passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from rootcellar.records import TaskRecord
from rootcellar.stores import StoreOptions, open_store
from tests.certificates import Authority
from tests.checks.helpers import CLOSED, assert_broken, assert_healthy, assert_warned, check, on_postgres
from tests.commands import run
from tests.servers import HOST, IN_URL, MissingServer, PgBouncerServer, PostgresServer
from tests.waiting.test_outages import StandbyServer

#: PostgreSQL's certificates of the tests are valid for a day
SOON = ("tls-expires-soon",)


class FastClock(PostgresServer):
    """A server whose clock is ten minutes ahead."""

    def _command(self) -> list[str]:
        found = list(Path("/usr").glob("lib*/**/faketime/libfaketime.so.1"))
        if not found:
            raise MissingServer("faketime is not installed: on Debian, apt-get install faketime")
        # not for the programs that start the server: they run as another user, whose semaphores it cannot open
        faked = [f"LD_PRELOAD={found[0]}", "FAKETIME=+10m", "FAKETIME_DONT_FAKE_MONOTONIC=1"]
        return ["/usr/bin/env", *faked, *super()._command()]


@pytest.fixture(scope="module")
def ready_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database with tables and a result in them."""
    url = postgres_server.create_database()
    store = open_store(url)
    store.put(TaskRecord(task_id="kept", state="SUCCESS"))
    store.close()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PostgresServer, Authority]]:
    """A server with TLS, and the authority of its certificate."""
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    server = PostgresServer()
    issued = authority.server()
    server.serve_tls(issued.certificate, issued.key)
    with server:
        yield server, authority


@contextmanager
def role(server: PostgresServer, url: str, *, granted: str = "worker") -> Iterator[str]:
    """Yield a URL for a user of least privilege."""
    name = f"checked_{granted or 'nobody'}"
    database = url.rpartition("/")[2]
    server.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'pw'")
    try:
        if granted:
            printed = run("schema", "grants", name, "--for", granted, "-b", url)
            server.execute(printed.out, database)
        yield url.replace(f"postgres:{IN_URL}@", f"{name}:pw@")
    finally:
        server.execute(f"DROP OWNED BY {name} CASCADE", database)
        server.execute(f"DROP ROLE {name}")


class TestHealthy:
    def test_healthy_database_passes(self, postgres_server: PostgresServer, ready_url: str) -> None:
        before = on_postgres(postgres_server, ready_url)
        assert_healthy(check(ready_url))
        assert on_postgres(postgres_server, ready_url) == before

    def test_check_makes_no_tables(self, postgres_server: PostgresServer, postgres_url: str) -> None:
        before = on_postgres(postgres_server, postgres_url)
        seen = check(postgres_url)
        assert_healthy(seen)
        assert "test tables" in seen.line("schema").seen
        assert on_postgres(postgres_server, postgres_url) == before

    def test_user_of_least_privilege_passes(self, postgres_server: PostgresServer, ready_url: str) -> None:
        with role(postgres_server, ready_url) as url:
            assert_healthy(check(url, database_create_tables_at_setup=False))

    def test_tls_passes(self, secure: tuple[PostgresServer, Authority]) -> None:
        server, authority = secure
        seen = check(f"{server.create_database()}?sslmode=verify-full&sslrootcert={authority.certificate}")
        assert_healthy(seen, but_for=SOON)
        assert "TLSv1.3, server, verified, expires in 1 days" in seen.of("tls-expires-soon").seen

    def test_pooler_with_a_listen_url_passes(
        self, pgbouncer_server: PgBouncerServer, postgres_server: PostgresServer, ready_url: str
    ) -> None:
        before = on_postgres(postgres_server, ready_url)
        url = pgbouncer_server.through(ready_url)
        seen = check(url, result_backend_transport_options={"listen_url": ready_url})
        assert_healthy(seen)
        assert "transaction mode" in seen.line("pooler").seen
        assert on_postgres(postgres_server, ready_url) == before


class TestConnecting:
    def test_unknown_host_is_reported(self, ready_url: str) -> None:
        seen = check(ready_url.replace(HOST, "no-such-host.invalid"))
        assert_broken(seen, "name-unresolved", "no-such-host.invalid")
        assert "tcp" in seen.skipped

    def test_closed_port_is_reported(self, postgres_server: PostgresServer, ready_url: str) -> None:
        assert_broken(check(ready_url.replace(f":{postgres_server.port}/", f":{CLOSED}/")), "tcp-refused", f":{CLOSED}")

    def test_wrong_password_is_reported(self, ready_url: str) -> None:
        assert_broken(check(ready_url.replace(IN_URL, "wrong")), "authentication-failed")

    def test_missing_database_is_reported(self, postgres_server: PostgresServer) -> None:
        assert_broken(check(postgres_server.database_url("nowhere")), "database-missing", "nowhere")

    def test_missing_socket_is_reported(self, tmp_path: Path) -> None:
        assert_broken(check(f"postgresql:///results?host={tmp_path}"), "tcp-socket")

    def test_wrong_ca_is_reported(self, secure: tuple[PostgresServer, Authority], tmp_path: Path) -> None:
        other = Authority(tmp_path / "other", "Another CA")
        seen = check(f"{secure[0].url}?sslmode=verify-full&sslrootcert={other.certificate}")
        assert_broken(seen, "tls-wrong-ca")
        assert "login" in seen.skipped

    def test_wrong_host_name_is_reported(self, secure: tuple[PostgresServer, Authority]) -> None:
        server, authority = secure
        url = server.url.replace(HOST, "db.example.com")
        url += f"?hostaddr={HOST}&sslmode=verify-full&sslrootcert={authority.certificate}"
        assert_broken(check(url), "tls-wrong-name")

    def test_expired_certificate_is_reported(self, secure: tuple[PostgresServer, Authority]) -> None:
        server, authority = secure
        for late in (True, False):
            issued = authority.server("late" if late else "server", days=-1 if late else 1)
            server.serve_tls(issued.certificate, issued.key)
            server.execute("SELECT pg_reload_conf()")
            if late:
                url = f"{server.url}?sslmode=verify-full&sslrootcert={authority.certificate}"
                assert_broken(check(url), "certificate-expired")

    def test_missing_tls_is_reported(self, ready_url: str) -> None:
        assert_broken(check(f"{ready_url}?sslmode=require"), "tls-not-offered")

    def test_standby_is_reported(self, postgres_server: PostgresServer, ready_url: str) -> None:
        with StandbyServer(postgres_server) as standby:
            url = ready_url.replace(f":{postgres_server.port}/", f":{standby.port}/")
            assert_broken(check(url), "store-read-only", "standby")

    def test_read_only_database_is_reported(self, postgres_server: PostgresServer, ready_url: str) -> None:
        name = ready_url.rpartition("/")[2]
        postgres_server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        try:
            assert_broken(check(ready_url), "store-read-only", "default_transaction_read_only")
        finally:
            postgres_server.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")

    def test_clock_that_is_ahead_is_reported(self) -> None:
        with FastClock() as server:
            assert_warned(check(server.create_database()), "clock-skew", "10 min ahead")


class TestRightsAndTables:
    @pytest.mark.parametrize(
        ("right", "table"),
        [
            ("INSERT", "celery_taskmeta"),
            ("DELETE", "celery_taskmeta"),
            ("UPDATE", "celery_groupmeta"),
            ("SELECT", "celery_taskmeta_chord"),
            ("INSERT", "celery_taskmeta_chord_part"),
            ("DELETE", "celery_taskmeta_listener"),
            ("INSERT", "celery_taskmeta_waiter"),
        ],
    )
    def test_missing_right_is_reported(
        self, postgres_server: PostgresServer, ready_url: str, right: str, table: str
    ) -> None:
        with role(postgres_server, ready_url) as url:
            postgres_server.execute(f"REVOKE {right} ON {table} FROM checked_worker", ready_url.rpartition("/")[2])
            assert_broken(check(url), "permission-denied", f'may not {right} on "{table}"')

    def test_user_without_rights_is_reported(self, postgres_server: PostgresServer, ready_url: str) -> None:
        with role(postgres_server, ready_url, granted="") as url:
            assert_broken(check(url), "permission-denied")

    def test_reader_is_reported(self, postgres_server: PostgresServer, ready_url: str) -> None:
        with role(postgres_server, ready_url, granted="reader") as url:
            assert_broken(check(url), "permission-denied", 'INSERT, UPDATE, DELETE on "celery_taskmeta";')

    def test_user_who_cannot_create_tables_is_reported(
        self, postgres_server: PostgresServer, postgres_url: str
    ) -> None:
        with role(postgres_server, postgres_url, granted="") as url:
            seen = check(url)
            assert_broken(seen, "permission-denied", "may not create it")
            assert "schema sql" in seen.of("permission-denied").advice

    def test_missing_tables_are_reported(self, postgres_url: str) -> None:
        assert_broken(check(postgres_url, database_create_tables_at_setup=False), "schema-missing")

    @pytest.mark.parametrize(("version", "code"), [(1, "schema-outdated"), (99, "schema-newer")])
    def test_tables_of_another_release_are_reported(
        self, postgres_server: PostgresServer, ready_url: str, version: int, code: str
    ) -> None:
        name = ready_url.rpartition("/")[2]
        (before,) = postgres_server.execute("SELECT version FROM rootcellar_schema", name)[0]
        update = "UPDATE rootcellar_schema SET version = "
        postgres_server.execute(f"{update}{version}", name)
        try:
            seen = check(ready_url, database_create_tables_at_setup=False)
        finally:
            postgres_server.execute(f"{update}{before}", name)
        assert [*seen.failures, *seen.warnings] == [code]

    def test_celerys_own_tables_are_reported(self, postgres_server: PostgresServer, postgres_url: str) -> None:
        postgres_server.execute("CREATE TABLE celery_taskmeta (id int)", postgres_url.rpartition("/")[2])
        assert_broken(check(postgres_url), "foreign-tables", "celery_taskmeta")


class TestSettings:
    def test_too_few_connections_are_reported(self, ready_url: str) -> None:
        assert_broken(check(ready_url, processes=500), "postgres-too-few-connections", "500 processes")

    def test_pools_beyond_the_connection_limit_are_reported(self, ready_url: str) -> None:
        engine = {"pool_size": 40, "max_overflow": 10}
        seen = check(ready_url, processes=8, database_engine_options=engine)
        assert_warned(seen, "postgres-connections", "8 processes x pool of 50 = 400")

    def test_connection_limit_of_a_user_is_reported(self, postgres_server: PostgresServer, ready_url: str) -> None:
        with role(postgres_server, ready_url) as url:
            postgres_server.execute("ALTER ROLE checked_worker CONNECTION LIMIT 6")
            assert_broken(check(url, processes=7), "postgres-too-few-connections", "room for 6")

    @pytest.mark.parametrize(
        ("setting", "code"),
        [
            ("synchronous_commit = off", "postgres-synchronous-commit"),
            ("statement_timeout = '1s'", "postgres-statement-timeout"),
        ],
    )
    def test_doubtful_setting_of_the_database_is_reported(
        self, postgres_server: PostgresServer, ready_url: str, setting: str, code: str
    ) -> None:
        name = ready_url.rpartition("/")[2]
        postgres_server.execute(f"ALTER DATABASE {name} SET {setting}")
        try:
            assert_warned(check(ready_url), code)
        finally:
            postgres_server.execute(f"ALTER DATABASE {name} RESET ALL")

    def test_server_without_fsync_is_reported(self, new_postgres: Callable[..., PostgresServer]) -> None:
        server = new_postgres(fsync=False, full_page_writes=False)
        assert_broken(check(server.create_database()), "postgres-fsync", also=("postgres-full-page-writes",))

    def test_other_encoding_is_reported(self, postgres_server: PostgresServer) -> None:
        postgres_server.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
        try:
            seen = check(postgres_server.database_url("latin"))
        finally:
            postgres_server.drop_database("latin")
        assert "postgres-encoding" in seen.warnings


class TestPoolers:
    def test_pooler_without_a_listen_url_is_reported(self, pgbouncer_server: PgBouncerServer, ready_url: str) -> None:
        assert_warned(check(pgbouncer_server.through(ready_url)), "pooler-no-listen-url", "transaction mode")

    def test_prepared_statements_through_a_pooler_are_reported(
        self, pgbouncer_server: PgBouncerServer, ready_url: str
    ) -> None:
        options = {"prepared_statements": "on", "listen_url": ready_url}
        seen = check(pgbouncer_server.through(ready_url), result_backend_transport_options=options)
        assert_warned(seen, "pooler-prepared")

    def test_closed_listen_url_is_reported(self, postgres_server: PostgresServer, ready_url: str) -> None:
        closed = ready_url.replace(f":{postgres_server.port}/", f":{CLOSED}/")
        seen = check(ready_url, result_backend_transport_options={"listen_url": closed})
        assert "listen-unusable" in seen.failures

    def test_statement_mode_is_reported(
        self, new_pgbouncer: Callable[..., PgBouncerServer], postgres_server: PostgresServer, ready_url: str
    ) -> None:
        pooler = new_pgbouncer(postgres_server, pool_mode="statement")
        assert_broken(check(pooler.through(ready_url)), "pooler-unfit")

    def test_session_mode_passes(
        self, new_pgbouncer: Callable[..., PgBouncerServer], postgres_server: PostgresServer, ready_url: str
    ) -> None:
        seen = check(new_pgbouncer(postgres_server, pool_mode="session").through(ready_url))
        assert_healthy(seen)
        assert "keeps a session" in seen.line("pooler").seen

    def test_wrong_password_is_reported(self, pgbouncer_server: PgBouncerServer) -> None:
        assert_broken(check(pgbouncer_server.url.replace(IN_URL, "wrong")), "authentication-failed")


def test_server_that_stops_during_a_check_is_reported(new_postgres: Callable[..., PostgresServer]) -> None:
    """The check ends with a finding and not with a traceback."""
    from rootcellar.checks.choosing import sections_for
    from rootcellar.checks.steps import run as go_through
    from rootcellar.checks.target import target_of

    server = new_postgres()
    (checks,) = sections_for(target_of({"result_backend": f"rootcellar+{server.create_database()}"}, 4))
    codes = []
    for finding in go_through(checks):
        codes.append(finding.code)
        if finding.check == "durability":
            server.kill()
    assert codes[-1] == ""  # skipped
    assert {code for code in codes if code} == {"store-unavailable"}


def test_tables_with_other_names_are_checked(postgres_url: str) -> None:
    open_store(postgres_url, StoreOptions(task_table="jobs", group_table="groups")).check()
    seen = check(postgres_url, database_table_names={"task": "jobs", "group": "groups"})
    assert_healthy(seen)
    assert '"jobs"' in seen.line("schema").seen
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT count(*) FROM rootcellar_schema").fetchone() == (1,)
