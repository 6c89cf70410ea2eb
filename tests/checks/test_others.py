"""``rootcellar check`` on MySQL, SQLite and MongoDB."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from rootcellar.records import TaskRecord
from rootcellar.stores import open_store
from tests.certificates import Authority
from tests.checks.helpers import CLOSED, assert_broken, assert_healthy, assert_warned, check, on_mongo, on_mysql
from tests.commands import run
from tests.mariadb_server import MariaDBServer
from tests.servers import HOST, IN_URL, PASSWORD, MongoServer


def keep(url: str) -> None:
    """Store a result, which makes tables or collections."""
    store = open_store(url)
    store.put(TaskRecord(task_id="kept", state="SUCCESS"))
    store.close()


class TestMySQL:
    @pytest.fixture
    def url(self, mysql_url: str) -> str:
        keep(mysql_url)
        return mysql_url

    @contextmanager
    def user(self, server: MariaDBServer, url: str, *rights: str) -> Iterator[str]:
        """Create a user with these rights on the database, and yield its URL."""
        server.execute("CREATE OR REPLACE USER checked@'%' IDENTIFIED BY 'pw'")
        for right in rights:
            server.execute(f"GRANT {right} ON `{url.rpartition('/')[2]}`.* TO checked@'%'")
        yield url.replace(f"root:{IN_URL}@", "checked:pw@")
        server.execute("DROP USER checked@'%'")

    @contextmanager
    def setting(self, server: MariaDBServer, name: str, value: Any) -> Iterator[None]:
        ((before,),) = server.execute(f"SELECT @@global.{name}")
        server.execute(f"SET GLOBAL {name} = {value}")
        try:
            yield
        finally:
            server.execute(f"SET GLOBAL {name} = {before}")

    def test_healthy_store_passes(self, mysql_server: MariaDBServer, url: str) -> None:
        before = on_mysql(mysql_server)
        assert_healthy(check(url))
        assert on_mysql(mysql_server) == before

    def test_check_makes_no_tables(self, mysql_server: MariaDBServer, mysql_url: str) -> None:
        before = on_mysql(mysql_server)
        assert_healthy(check(mysql_url))
        assert on_mysql(mysql_server) == before

    def test_user_of_least_privilege_passes(self, mysql_server: MariaDBServer, url: str) -> None:
        with self.user(mysql_server, url) as as_user:
            mysql_server.execute(run("schema", "grants", "checked", "-b", url).out, url.rpartition("/")[2])
            assert_healthy(check(as_user, database_create_tables_at_setup=False))

    def test_closed_port_is_reported(self) -> None:
        assert_broken(check(f"mysql://u:pw@{HOST}:{CLOSED}/db"), "tcp-refused")

    def test_wrong_password_is_reported(self, mysql_url: str) -> None:
        assert_broken(check(mysql_url.replace(IN_URL, "wrong")), "authentication-failed")

    def test_missing_database_is_reported(self, mysql_server: MariaDBServer) -> None:
        assert_broken(check(mysql_server.database_url("nowhere")), "database-missing", "nowhere")

    def test_missing_tls_is_reported(self, mysql_url: str) -> None:
        assert_broken(check(f"{mysql_url}?ssl=true"), "tls-not-offered")

    def test_user_without_rights_is_reported(self, mysql_server: MariaDBServer, url: str) -> None:
        with self.user(mysql_server, url) as as_user:
            assert_broken(check(as_user), "permission-denied")

    @pytest.mark.parametrize("right", ["INSERT", "UPDATE", "DELETE"])
    def test_missing_right_is_reported(self, mysql_server: MariaDBServer, url: str, right: str) -> None:
        rights = [each for each in ("SELECT", "INSERT", "UPDATE", "DELETE") if each != right]
        with self.user(mysql_server, url, *rights) as as_user:
            assert_broken(check(as_user), "permission-denied", f"may not {right} on `celery_taskmeta`")

    def test_user_who_cannot_create_tables_is_reported(self, mysql_server: MariaDBServer, mysql_url: str) -> None:
        with self.user(mysql_server, mysql_url, "SELECT", "INSERT", "UPDATE", "DELETE") as as_user:
            assert_broken(check(as_user), "permission-denied", "there are no tables")

    def test_missing_tables_are_reported(self, mysql_url: str) -> None:
        assert_broken(check(mysql_url, database_create_tables_at_setup=False), "schema-missing")

    def test_small_packet_limit_is_reported(self, mysql_server: MariaDBServer, url: str) -> None:
        with self.setting(mysql_server, "max_allowed_packet", 4 << 20):
            assert_warned(check(url), "mysql-packet", "4 MB")

    def test_packet_limit_that_stops_every_result_is_reported(self, mysql_server: MariaDBServer, url: str) -> None:
        with self.setting(mysql_server, "max_allowed_packet", 64 << 10):
            seen = check(url)
        assert "mysql-packet" in seen.warnings
        assert seen.line("round trip").code == "store-error"

    def test_read_only_server_is_reported(self, mysql_server: MariaDBServer, url: str) -> None:
        with (
            self.user(mysql_server, url, "SELECT", "INSERT", "UPDATE", "DELETE") as as_user,
            self.setting(mysql_server, "read_only", 1),
        ):
            assert_broken(check(as_user), "store-read-only")

    def test_delayed_flush_to_disk_is_reported(self, mysql_server: MariaDBServer, url: str) -> None:
        with self.setting(mysql_server, "innodb_flush_log_at_trx_commit", 2):
            assert_warned(check(url), "mysql-durability")

    def test_too_few_connections_are_reported(self, url: str) -> None:
        assert_broken(check(url, processes=500), "mysql-too-few-connections")

    def test_pools_beyond_the_connection_limit_are_reported(self, url: str) -> None:
        engine = {"pool_size": 90, "max_overflow": 0}
        assert_warned(check(url, processes=3, database_engine_options=engine), "mysql-connections", "= 270")

    def test_tls_passes_and_a_wrong_ca_is_reported(
        self, new_mysql: Callable[..., MariaDBServer], tmp_path: Path
    ) -> None:
        right, other = Authority(tmp_path / "right"), Authority(tmp_path / "other", "Another CA")
        issued = right.server()
        server = new_mysql(ssl_cert=str(issued.certificate), ssl_key=str(issued.key))
        seen = check(f"{server.create_database()}?ssl_ca={right.certificate}")
        assert_healthy(seen, but_for=("tls-expires-soon",))
        assert "verified, expires in 1 days" in seen.line("tls").seen
        assert_broken(check(f"{server.url}?ssl_ca={other.certificate}"), "tls-wrong-ca")


class TestSQLite:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "results.sqlite3"
        keep(f"sqlite:///{path}")
        return path

    def test_healthy_store_passes(self, file: Path) -> None:
        before = self.dump(file)
        assert_healthy(check(f"sqlite:///{file}"))
        assert (self.dump(file), os.listdir(file.parent)) == (before, [file.name])

    @pytest.mark.parametrize(
        ("interval", "said"), [(None, "expired, every hour"), (10, "expired, every 10 seconds"), (0, "do not delete")]
    )
    def test_interval_of_the_cleanup_is_named(self, interval: float | None, said: str, file: Path) -> None:
        options = {} if interval is None else {"cleanup_interval": interval}
        seen = check(f"sqlite:///{file}", result_backend_transport_options=options)
        assert said in seen.line("expiry").seen

    def test_check_makes_no_file(self, tmp_path: Path) -> None:
        assert_healthy(check(f"sqlite:///{tmp_path}/new.sqlite3"))
        assert os.listdir(tmp_path) == []

    def test_missing_folder_is_reported(self, tmp_path: Path) -> None:
        assert_broken(check(f"sqlite:///{tmp_path}/no/such/file"), "sqlite-no-folder", "/no/such")

    def test_read_only_file_is_reported(self, file: Path) -> None:
        file.chmod(0o444)
        assert "sqlite-read-only-file" in self.as_ordinary_user(file)

    def test_read_only_folder_is_reported(self, file: Path) -> None:
        file.parent.chmod(0o555)
        try:
            assert "sqlite-read-only-folder" in self.as_ordinary_user(file)
        finally:
            file.parent.chmod(0o755)

    def test_locked_file_is_reported(self, file: Path) -> None:
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert_broken(check(f"sqlite:///{file}"), "sqlite-locked")

    def test_file_of_another_kind_is_reported(self, tmp_path: Path) -> None:
        (tmp_path / "notes").write_text("not a database at all")
        assert_broken(check(f"sqlite:///{tmp_path}/notes"), "sqlite-not-a-database")

    def test_celerys_own_tables_are_reported(self, tmp_path: Path) -> None:
        with closing(sqlite3.connect(tmp_path / "old")) as old:
            old.execute("CREATE TABLE celery_taskmeta (id INTEGER)")
        assert_broken(check(f"sqlite:///{tmp_path}/old"), "foreign-tables")

    def test_missing_tables_are_reported(self, tmp_path: Path) -> None:
        seen = check(f"sqlite:///{tmp_path}/new", database_create_tables_at_setup=False)
        assert_broken(seen, "schema-missing")

    def as_ordinary_user(self, file: Path) -> str:
        """Run the command without root's right to write everything; return what it printed."""
        prefix = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
        ended = run("check", f"sqlite:///{file}", prefix=prefix)
        assert ended.status == 1, ended
        return ended.out.splitlines()[-1]

    def dump(self, file: Path) -> list[str]:
        with closing(sqlite3.connect(file)) as connection:
            return list(connection.iterdump())


@pytest.fixture(scope="module")
def guarded() -> Iterator[MongoServer]:
    """A server with users."""
    with MongoServer() as server:
        with server.client() as client:
            client.admin.command("createUser", "root", pwd=PASSWORD, roles=["root"])
            client.admin.command("createUser", "reader", pwd=PASSWORD, roles=["readAnyDatabase"])
        server.configure(auth=True)
        server.restart()
        yield server


class TestMongoDB:
    def test_healthy_store_passes(self, mongo_server: MongoServer) -> None:
        url = mongo_server.new_database()
        keep(url)
        before = on_mongo(mongo_server)
        assert_healthy(check(url))
        assert on_mongo(mongo_server) == before
        mongo_server.drop_database(url)

    def test_check_makes_no_collections(self, mongo_server: MongoServer) -> None:
        before = on_mongo(mongo_server)
        seen = check(mongo_server.new_database())
        assert_healthy(seen)
        assert "test collections" in seen.line("rights").seen
        assert on_mongo(mongo_server) == before

    def test_closed_port_is_reported(self) -> None:
        assert_broken(check(f"mongodb://{HOST}:{CLOSED}/db"), "tcp-refused")

    def test_unknown_host_is_reported(self) -> None:
        assert_broken(check("mongodb://no-such-host.invalid/db"), "name-unresolved")

    def test_wrong_password_is_reported(self, guarded: MongoServer) -> None:
        url = f"mongodb://root:wrong@{HOST}:{guarded.port}/results?authSource=admin"
        assert_broken(check(url), "authentication-failed")

    def test_missing_user_is_reported(self, guarded: MongoServer) -> None:
        seen = check(f"mongodb://{HOST}:{guarded.port}/results")
        assert seen.failures[0] in ("permission-denied", "authentication-failed"), seen

    def test_reader_is_reported(self, guarded: MongoServer) -> None:
        url = f"mongodb://reader:{quote(PASSWORD, safe='')}@{HOST}:{guarded.port}/results?authSource=admin"
        assert_broken(check(url), "permission-denied", "insert, update, remove")

    def test_user_with_rights_passes(self, guarded: MongoServer) -> None:
        url = f"mongodb://root:{quote(PASSWORD, safe='')}@{HOST}:{guarded.port}/results?authSource=admin"
        assert_healthy(check(url))

    def test_weak_write_concern_is_reported(self, mongo_server: MongoServer) -> None:
        assert_warned(check(f"{mongo_server.new_database()}?w=1"), "mongodb-write-concern")

    def test_missing_replica_set_is_reported(self, new_mongo: Callable[..., MongoServer]) -> None:
        assert_warned(check(new_mongo(standalone=True).new_database()), "mongodb-standalone")

    def test_wrong_ca_is_reported(self, new_mongo: Callable[..., MongoServer], tmp_path: Path) -> None:
        right, other = Authority(tmp_path / "right"), Authority(tmp_path / "other", "Another CA")
        issued = right.server()
        server = new_mongo(tls_cert_file=str(issued.certificate), tls_key_file=str(issued.key))
        url = f"mongodb://{HOST}:{server.port}/db?tls=true&tlsCAFile="
        assert_healthy(check(f"{url}{right.certificate}"), but_for=("tls-expires-soon",))
        assert_broken(check(f"{url}{other.certificate}"), "tls-wrong-ca")
