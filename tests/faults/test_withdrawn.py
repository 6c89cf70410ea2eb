"""A login, a grant or a database that worked before and is refused now is an outage."""

from __future__ import annotations

import contextlib
import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

from rootcellar import errors
from rootcellar.stores import Store, StoreOptions, open_store
from rootcellar.stores.passwords import PasswordFile, current, source_of
from rootcellar.stores.withdrawal import METHODS, WorkedMethods
from tests.helpers import record
from tests.mariadb_server import MariaDBServer
from tests.redis_servers import COMMANDS, KEYS
from tests.servers import HOST, MongoServer, PostgresServer, RedisServer
from tests.workers import Worker

OLD, NEW = "old p@ss:w/rd#1", "new p@ss:w/rd#2"


class Guarded(ABC):
    """A server, and a user of it whose password and rights change."""

    user = "keeper"
    #: the URL of the store, with the user and without a password
    url = ""

    @abstractmethod
    def set_password(self, password: str) -> None:
        """Give the user another password, and end its sessions."""

    @abstractmethod
    def forbid(self) -> None:
        """Revoke the right to store."""

    @abstractmethod
    def allow(self) -> None:
        """Grant the right to store again."""


class GuardedPostgres(Guarded):
    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        whole = server.create_database()
        self.database = whole.rpartition("/")[2].partition("?")[0]
        with contextlib.suppress(psycopg.errors.DuplicateObject):
            server.execute(f"CREATE ROLE {self.user} LOGIN")
        self.set_password(OLD)
        self.open_schema()
        self.url = f"postgresql://{self.user}@{HOST}:{server.port}/{self.database}"

    def open_schema(self) -> None:
        self.server.execute(f"GRANT ALL ON SCHEMA public TO {self.user}", self.database)

    def set_password(self, password: str) -> None:
        self.server.execute(f"ALTER ROLE {self.user} PASSWORD '{password}'")
        self.end_sessions()

    def end_sessions(self) -> None:
        sessions = f"FROM pg_stat_activity WHERE usename = '{self.user}'"
        self.server.execute(f"SELECT pg_terminate_backend(pid) {sessions}")

    def forbid(self) -> None:
        self.server.execute(f"REVOKE INSERT ON celery_taskmeta FROM {self.user}", self.database)

    def allow(self) -> None:
        self.server.execute(f"GRANT INSERT ON celery_taskmeta TO {self.user}", self.database)

    def drop(self) -> None:
        self.server.execute(f'DROP DATABASE "{self.database}" WITH (FORCE)')

    def create(self) -> None:
        self.server.execute(f'CREATE DATABASE "{self.database}"')
        self.open_schema()


class GuardedMariaDB(Guarded):
    def __init__(self, server: MariaDBServer) -> None:
        self.server = server
        self.database = server.create_database().rpartition("/")[2]
        server.execute(f"CREATE OR REPLACE USER {self.user}@'%' IDENTIFIED BY '{OLD}'")
        self.allow()
        self.url = f"mysql://{self.user}@{HOST}:{server.port}/{self.database}"

    def set_password(self, password: str) -> None:
        self.server.execute(f"ALTER USER {self.user}@'%' IDENTIFIED BY '{password}'")
        self.server.execute(f"KILL USER {self.user}@'%'")

    def forbid(self) -> None:
        # a session keeps the rights on a database that it had at its begin
        self.server.execute(f"REVOKE INSERT ON `{self.database}`.* FROM {self.user}@'%'; KILL USER {self.user}@'%'")

    def allow(self) -> None:
        self.server.execute(f"GRANT ALL ON `{self.database}`.* TO {self.user}@'%'; KILL USER {self.user}@'%'")

    def drop(self) -> None:
        self.server.execute(f"DROP DATABASE `{self.database}`")

    def create(self) -> None:
        self.server.execute(f"CREATE DATABASE `{self.database}`")


class GuardedRedis(Guarded):
    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.url = f"redis://{HOST}:{server.port}/0"
        self.user = "default"
        self._admin("ACL", "SETUSER", "admin", "on", ">admin", "~*", "&*", "+@all")
        self.set_password(OLD)

    def _admin(self, *command: str) -> None:
        with redis.Redis(host=HOST, port=self.server.port, username="admin", password="admin") as client:
            try:
                client.execute_command(*command)
            except redis.AuthenticationError:
                with self.server.client() as first:
                    first.execute_command(*command)

    def set_password(self, password: str) -> None:
        rules = [*COMMANDS.split(), *KEYS.split()]
        self._admin("ACL", "SETUSER", "default", "reset", "on", f">{password}", *rules)
        self._admin("CLIENT", "KILL", "USER", "default")

    def forbid(self) -> None:
        self._admin("ACL", "SETUSER", "default", "-eval", "-evalsha")

    def allow(self) -> None:
        self._admin("ACL", "SETUSER", "default", "+eval", "+evalsha")


@pytest.fixture(params=["postgresql", "mysql", "redis"])
def guarded(request: pytest.FixtureRequest) -> Guarded:
    if request.param == "postgresql":
        return GuardedPostgres(request.getfixturevalue("postgres_server"))
    if request.param == "mysql":
        return GuardedMariaDB(request.getfixturevalue("mysql_server"))
    return GuardedRedis(request.getfixturevalue("new_redis")())


@pytest.fixture
def passwords(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text(OLD + "\n")
    return path


@contextlib.contextmanager
def opened(guarded: Guarded, password: Callable[[], str]) -> Iterator[Store]:
    store = open_store(guarded.url, StoreOptions(password=password))
    try:
        yield store
    finally:
        store.close()


def test_refused_password_is_an_outage_after_a_store(guarded: Guarded, passwords: Path) -> None:
    with opened(guarded, PasswordFile(str(passwords))) as store:
        store.put(record())
        guarded.set_password(NEW)
        for _ in range(2):
            with pytest.raises(errors.AuthenticationFailed) as caught:
                store.put(record())
            assert caught.value.retryable
        with pytest.raises(errors.AuthenticationFailed) as caught:
            store.get("unknown")
        assert caught.value.retryable, "the login is the same for all calls"
        passwords.write_text(NEW)
        one = record()
        assert store.put(one).written
        assert store.get(one.task_id) == one


def test_wrong_password_is_a_lasting_error_before_a_store(guarded: Guarded) -> None:
    with opened(guarded, lambda: "wrong") as store:
        for work in (lambda: store.put(record()), lambda: store.get("x"), store.check):
            with pytest.raises(errors.AuthenticationFailed) as caught:
                work()
            assert not caught.value.retryable


def test_withdrawn_grant_is_an_outage_after_a_store(guarded: Guarded) -> None:
    with opened(guarded, lambda: OLD) as store:
        store.put(record())
        guarded.forbid()
        with pytest.raises(errors.PermissionDenied) as caught:
            store.put(record())
        assert caught.value.retryable
        assert copy.copy(caught.value).retryable
        with opened(guarded, lambda: OLD) as another:
            another.check()
            with pytest.raises(errors.PermissionDenied) as caught:
                another.put(record())
            assert not caught.value.retryable, "it never worked there"
        guarded.allow()
        assert store.put(record()).written


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_missing_database_is_an_outage_after_a_store(kind: str, request: pytest.FixtureRequest) -> None:
    guarded: GuardedPostgres | GuardedMariaDB = (
        GuardedPostgres(request.getfixturevalue("postgres_server"))
        if kind == "postgresql"
        else GuardedMariaDB(request.getfixturevalue("mysql_server"))
    )
    with opened(guarded, lambda: OLD) as store:
        store.put(record())
        guarded.drop()
        for _ in range(2):
            with pytest.raises((errors.DatabaseMissing, errors.StoreUnavailable)) as caught:
                store.put(record())
            assert caught.value.retryable
        guarded.create()
        one = record()
        assert store.put(one).written
        assert store.get(one.task_id) == one


def test_refused_mongodb_password_is_an_outage_after_a_store(
    new_mongo: Callable[..., MongoServer], passwords: Path
) -> None:
    server = new_mongo()
    with server.client() as client:
        client.admin.command("createUser", "root", pwd=OLD, roles=["root"])
    server.configure(auth=True)
    server.restart()
    url = f"mongodb://{HOST}:{server.port}/results?authSource=admin"

    def options(password: Callable[[], str]) -> StoreOptions:
        return StoreOptions(sections={"mongodb": {"user": "root"}}, password=password)

    store = open_store(url, options(PasswordFile(str(passwords))))
    one = record()
    store.put(one)
    passwords.write_text("wrong")
    store.close()
    with pytest.raises(errors.AuthenticationFailed) as caught:
        store.put(record())
    assert caught.value.retryable
    passwords.write_text(OLD)
    assert store.get(one.task_id) == one
    store.close()
    store = open_store(url, options(lambda: "wrong"))
    with pytest.raises(errors.AuthenticationFailed) as caught:
        store.put(record())
    assert not caught.value.retryable
    store.close()


def test_worker_keeps_results_while_its_login_is_refused(
    postgres_server: PostgresServer, redis_url: str, tmp_path: Path
) -> None:
    """Each task runs in a new process, which has stored nothing before."""
    guarded = GuardedPostgres(postgres_server)
    passfile = tmp_path / "pgpass"

    def know(password: str) -> None:
        passfile.write_text(f"*:*:*:*:{password.replace(':', chr(92) + ':')}\n")
        passfile.chmod(0o600)

    know(OLD)
    backend = f"rootcellar+{guarded.url}?passfile={passfile}"
    env = {"TEST_BROKER": redis_url, "TEST_BACKEND": backend}
    app = Celery("client", broker=redis_url, backend=f"rootcellar+{postgres_server.database_url(guarded.database)}")
    with Worker("tests.apps.ping", env=env, concurrency=1, args=["--max-tasks-per-child=1"]) as worker:
        assert app.send_task("tests.apps.ping.ping", ("first",)).get(timeout=60) == "first"
        guarded.set_password(NEW)
        result = app.send_task("tests.apps.ping.ping", ("second",))
        worker.wait_for_log("password authentication failed", timeout=60)
        assert not result.ready()
        know(NEW)
        assert result.get(timeout=60) == "second"
        assert worker.running
    app.backend.store.close()


def test_forked_child_knows_which_calls_of_others_worked() -> None:
    worked = WorkedMethods()
    put, denied = METHODS.index("put"), errors.PermissionDenied("no")
    assert not worked.is_withdrawal(put, denied)
    child = os.fork()
    if not child:
        worked.record(put)
        os._exit(0)
    os.waitpid(child, 0)
    assert worked.is_withdrawal(put, denied)
    assert not worked.is_withdrawal(METHODS.index("get"), denied)
    assert worked.is_withdrawal(METHODS.index("get"), errors.AuthenticationFailed("no"))


# -- sources of passwords


def test_password_source_is_chosen_by_the_kind_of_store() -> None:
    given = {"postgresql": "one", "redis": lambda: "two"}
    assert current(source_of(given, "postgresql", "postgres")) == "one"
    assert current(source_of(given, "redis")) == "two"
    assert source_of(given, "mysql", "mariadb") is None
    assert current(source_of(lambda: "all", "mysql")) == "all"
    with pytest.raises(errors.ConfigurationError, match="result_backend_password is a int"):
        source_of(7, "redis")


class CloudError(Exception):
    """An error of a cloud provider's library."""


def test_failed_password_function_is_an_outage() -> None:
    def fail() -> str:
        raise CloudError("hush-hush")

    def is_interrupted() -> str:
        raise SoftTimeLimitExceeded

    with pytest.raises(SoftTimeLimitExceeded):
        current(is_interrupted)
    with pytest.raises(errors.StoreUnavailable, match="failed with CloudError") as caught:
        current(fail)
    assert "hush" not in str(caught.value)
    with pytest.raises(errors.StoreUnavailable, match="returned a NoneType"):
        current(lambda: None)


def test_app_takes_a_function_for_the_password(postgres_server: PostgresServer) -> None:
    guarded = GuardedPostgres(postgres_server)
    app = Celery("app", broker="memory://", backend=f"rootcellar+{guarded.url}", set_as_current=False)
    asked: list[str] = []

    def password() -> str:
        asked.append(OLD)
        return OLD

    app.conf.result_backend_password = password
    app.backend.store_result("task", 1, "SUCCESS")
    assert app.AsyncResult("task").get(timeout=20) == 1
    assert asked
    assert OLD not in app.bugreport()
    app.backend.store.close()
