"""MySQL and MariaDB: packets, locks, commits at every CREATE, sessions that end."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import pymysql
import pytest

from rootcellar import errors
from rootcellar.records import Payload
from rootcellar.stores import Store, StoreOptions, open_store
from rootcellar.stores.mysql import MySQLStore, driver
from rootcellar.stores.mysql.url import connection_settings
from rootcellar.testing.helpers import NOW, begun, new_id, part, record
from rootcellar.testing.suites.store.fixtures import processes  # noqa: F401 - a fixture
from rootcellar.testing.synced_processes import SyncedProcesses
from tests.certificates import Authority, Issued
from tests.mariadb_server import MariaDBServer
from tests.servers import PASSWORD, free_port

MEGABYTE = 1 << 20
SQL = files("rootcellar.stores.mysql")


@pytest.fixture(scope="module")
def own_server() -> Iterator[MariaDBServer]:
    """A server that the tests of this module may stop and configure, if they restore it."""
    with MariaDBServer() as server:
        yield server


@pytest.fixture
def store(mysql_url: str) -> Iterator[MySQLStore]:
    found = MySQLStore(mysql_url)
    yield found
    found.close()


def opened(url: str, **options: Any) -> closing[Store]:
    return closing(open_store(url, StoreOptions(**options)))


def as_user(url: str, user: str) -> str:
    """Return a URL with another user and password."""
    return f"mysql://{user}@{url.rpartition('@')[2]}"


def text_payload(size: int) -> Payload:
    return Payload(b'"' + b"x" * (size - 2) + b'"')


# -- sessions ----------------------------------------------------------------------------------------------------------


def test_session_settings_override_the_servers(new_mysql: Callable[..., MariaDBServer]) -> None:
    server = new_mysql(
        transaction_isolation="REPEATABLE-READ",
        sql_mode="ANSI_QUOTES,NO_BACKSLASH_ESCAPES",
        default_time_zone="+05:00",
        character_set_server="latin1",
        character_set_client_handshake="OFF",
        innodb_lock_wait_timeout=50,
        autocommit=0,
    )
    url = server.create_database()
    with opened(url) as store:
        odd = record(name="a 'quoted' \\ 🧊 name")
        assert store.put(odd).written
        with opened(url) as other:
            assert other.get(odd.task_id) == odd
        group = begun(store, 1)
        assert store.count_part(part(group), lease=30).claimed
        assert not store.claim_chord(group, "another"), "the lease is stored and read in the same time zone"
    settings = connection_settings(url, {})
    with closing(driver.connect(settings, "there")) as connection:
        assert connection.rows("SELECT @@session.tx_isolation, @@session.innodb_lock_wait_timeout, @@autocommit") == [
            ("READ-COMMITTED", driver.LOCK_TIMEOUT, 1)
        ]


def test_dates_are_utc_in_every_session(mysql_server: MariaDBServer, store: MySQLStore, mysql_url: str) -> None:
    store.put(record(task_id="one"))
    name = mysql_url.rpartition("/")[2]
    (row,) = mysql_server.execute("SELECT CAST(date_done AS CHAR) FROM celery_taskmeta", name)
    assert row == ("2031-05-06 07:08:09.123456",)


def test_killed_session_is_replaced(mysql_server: MariaDBServer, store: MySQLStore, mysql_url: str) -> None:
    name = mysql_url.rpartition("/")[2]
    for _ in range(3):
        one = record()
        assert store.put(one).written
        for number, *_, database in [row[:4] for row in mysql_server.execute("SHOW PROCESSLIST")]:
            if database == name:
                mysql_server.execute(f"KILL {number}")
        assert store.get(one.task_id) == one


def test_interrupted_call_never_reads_an_old_reply(store: MySQLStore) -> None:
    one, other = record(), record()
    store.put(one)
    store.put(other)

    class TimeLimit(Exception):
        """An exception like Celery's, at any line."""

    def interrupted(connection: Any) -> None:
        connection._execute_command(3, "SELECT 'late'")
        raise TimeLimit

    with pytest.raises(TimeLimit):
        store._run(interrupted)
    assert store.get(one.task_id) == one
    assert store.get(other.task_id) == other


def test_interrupted_transaction_leaves_nothing(store: MySQLStore, monkeypatch: Any) -> None:
    class TimeLimit(Exception):
        """An exception like Celery's, at any line."""

    one, group = record(), begun(store, 2)

    def too_late(*_: Any) -> Any:
        raise TimeLimit

    monkeypatch.setattr(store, "_count_part", too_late)
    with pytest.raises(TimeLimit):
        store.put(one, part(group, one.task_id))
    monkeypatch.undo()
    assert store.get(one.task_id) is None
    assert list(store.chord_parts(group)) == []
    assert store.put(one, part(group, one.task_id)).written


def test_server_that_is_down_is_reported_at_once() -> None:
    with opened(f"mysql://u:s3cret@127.0.0.1:{free_port()}/db") as store:
        # not the timeout of the driver
        with pytest.raises(errors.StoreUnavailable, match="refused") as caught:
            store.get("x")
        assert caught.value.retryable
        assert "s3cret" not in str(caught.value)


def test_silent_server_times_out(own_server: MariaDBServer) -> None:
    with opened(f"{own_server.create_database()}?connect_timeout=0.5&read_timeout=0.7") as store:
        one = record()
        store.put(one)
        own_server.pause()
        for _ in range(2):  # on an open connection, and on a new one
            began = time.monotonic()
            with pytest.raises(errors.StoreUnavailable):
                store.get("x")
            assert time.monotonic() - began < 9, "the driver's own timeout is 10 s"
        own_server.resume()
        assert store.get(one.task_id) == one


def test_store_works_again_after_a_kill(own_server: MariaDBServer) -> None:
    with opened(own_server.create_database()) as store:
        stored = [record() for _ in range(20)]
        for one in stored:
            store.put(one)
        own_server.kill()
        with pytest.raises(errors.StoreUnavailable):
            store.put(record())
        own_server.start()
        assert store.get_many([one.task_id for one in stored]) == {one.task_id: one for one in stored}


def test_read_only_server_is_an_outage(own_server: MariaDBServer) -> None:
    url = own_server.create_database()
    own_server.execute("CREATE USER w@'%' IDENTIFIED BY 'w'; GRANT ALL ON `test\\_%`.* TO w@'%'")
    with opened(as_user(url, "w:w")) as store:
        store.put(record())
        own_server.execute("SET GLOBAL read_only = 1")
        with pytest.raises(errors.StoreReadOnly) as caught:
            store.put(record())
        assert caught.value.retryable
        own_server.execute("SET GLOBAL read_only = 0")
        assert store.put(record()).written


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_refused_login_names_its_reason(mysql_server: MariaDBServer, mysql_url: str) -> None:
    name = mysql_url.rpartition("/")[2]
    mysql_server.execute(
        f"CREATE OR REPLACE USER nobody@'%' IDENTIFIED BY 'n'; GRANT SELECT ON `{name}`.* TO nobody@'%'"
    )
    nobody = as_user(mysql_url, "nobody:n")
    for url, kind, says in (
        (as_user(mysql_url, "root:sesame"), errors.AuthenticationFailed, "Access denied"),
        (mysql_server.database_url("nowhere"), errors.DatabaseMissing, "nowhere"),
        (nobody, errors.PermissionDenied, "CREATE"),
    ):
        with opened(url) as store:
            with pytest.raises(kind, match=says) as caught:
                store.put(record())
            assert not caught.value.retryable
            assert caught.value.remedy
            assert "sesame" not in f"{caught.value!s} {caught.value!r}"


@pytest.mark.parametrize("size", [70_000, 20 * MEGABYTE])
def test_payload_of_any_accepted_size_is_stored(store: MySQLStore, size: int) -> None:
    text, data = record(result=text_payload(size)), record(result=Payload(bytes(size), "a/b", "binary"))
    for one in (text, data):
        store.put(one)
        assert store.get(one.task_id) == one


def test_too_large_payload_is_refused(own_server: MariaDBServer) -> None:
    own_server.execute(f"SET GLOBAL max_allowed_packet = {MEGABYTE}")
    with opened(own_server.create_database()) as store:
        fits, huge = record(result=text_payload(MEGABYTE - 10_000)), record(result=text_payload(MEGABYTE + 10_000))
        assert store.put(fits).written
        with pytest.raises(errors.PayloadTooLarge, match="the server takes 1,048,576") as caught:
            store.put(huge)
        assert "max_allowed_packet" in caught.value.remedy
        assert not caught.value.retryable
        assert store.get(fits.task_id) == fits
        assert store.get(huge.task_id) is None
    own_server.execute("SET GLOBAL max_allowed_packet = 268435456")


def test_payload_too_large_for_the_log_is_refused(new_mysql: Callable[..., MariaDBServer]) -> None:
    server = new_mysql(innodb_log_file_size="8M")
    with opened(server.create_database()) as store:
        try:
            store.put(record(result=text_payload(20 * MEGABYTE)))
        except errors.PayloadTooLarge as exc:
            assert "innodb_log_file_size" in exc.remedy  # noqa: PT017  newer servers take it


def test_similar_ids_are_different_tasks(store: MySQLStore) -> None:
    one = record(task_id="a")
    store.put(one)
    with pytest.raises(errors.RecordRefused, match="space"):
        store.put(record(task_id="a "))
    assert store.get("a ") is None
    assert store.get("A") is None
    assert store.get_many(["a ", "A", "ä", "a"]) == {"a": one}
    assert store.delete(["a ", "A"]) == 0


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://u:s3cret@host/", "no database"),
        ("mysql://u:s3cret@host:port/db", "a port that is not a number"),
        ("mysql://u:half@s3cret@host/db", "@"),
        ("mysql://u:s3cret@host/db?charset=latin1", "utf8mb4"),
        ("mysql://u:s3cret@host/db?colour=red", "colour=, which is not known"),
        ("mysql://u:s3cret@host/db?read_timeout=soon", "no number of seconds"),
        ("mysql://u@host/db?password=s3cret", "password="),
        ("mysql://u@host/db?ssl_key_password=s3cret", "ssl_key_password="),
        ("mysql://u:s3cret@host/db?ssl_ca=/no/such/file", "/no/such/file"),
        ("mysql://u:s3cret@host/db?ssl_verify_cert=perhaps", "neither true nor false"),
    ],
)
def test_unusable_url_is_refused(url: str, says: str) -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        MySQLStore(url)
    assert says in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_password_with_special_characters_is_accepted(mysql_server: MariaDBServer, mysql_url: str) -> None:
    mysql_server.execute(
        "CREATE OR REPLACE USER 'o:d@d'@'%' IDENTIFIED BY 'p@:/%#? ключ'; GRANT ALL ON *.* TO 'o:d@d'@'%'"
    )
    url = as_user(mysql_url, "o%3Ad%40d:p%40%3A%2F%25%23%3F%20%D0%BA%D0%BB%D1%8E%D1%87")
    with opened(url) as store:
        assert store.put(record()).written
        assert "ключ" not in store.where


# -- TLS ---------------------------------------------------------------------------------------------------------------


def test_tls_certificates_are_verified(new_mysql: Callable[..., MariaDBServer], tmp_path: Path) -> None:
    right, wrong = Authority(tmp_path / "right"), Authority(tmp_path / "wrong", "Another CA")
    good, expired = right.server(), right.server("expired", days=-1)
    elsewhere = right.server("elsewhere", "db.example.com")
    certificate, key = tmp_path / "server.crt", tmp_path / "server.key"

    def show(issued: Issued) -> None:
        shutil.copy(issued.certificate, certificate)
        shutil.copy(issued.key, key)

    show(good)
    server = new_mysql(ssl_cert=str(certificate), ssl_key=str(key), ssl_ca=str(right.certificate))
    url = server.create_database()
    ca = f"?ssl_ca={right.certificate}"

    def answer(options: str) -> str:
        with opened(url + options) as store:
            assert store.put(record()).written
            ((_, cipher),) = store._run(lambda c: c.rows("SHOW STATUS LIKE 'Ssl_cipher'"))  # type: ignore[attr-defined]
            return str(cipher)

    def refusal(options: str) -> errors.CertificateRefused:
        with opened(url + options) as store, pytest.raises(errors.CertificateRefused) as caught:
            store.put(record())
        assert PASSWORD not in str(caught.value)
        return caught.value

    assert answer(ca)
    assert answer("?ssl_disabled=true") == ""
    assert "wrong CA" in str(refusal(f"?ssl_ca={wrong.certificate}"))
    assert "wrong CA" in str(refusal("?ssl=true")), "the system's CAs have not signed it"
    assert answer("?ssl_verify_cert=false")

    show(expired)
    server.execute("FLUSH SSL")
    assert "expired" in str(refusal(ca))

    show(elsewhere)
    server.execute("FLUSH SSL")
    assert "wrong host name" in str(refusal(ca))
    assert answer(f"{ca}&ssl_verify_identity=false")

    # a user who must show a certificate
    show(good)
    server.execute("FLUSH SSL; CREATE USER w@'%' IDENTIFIED BY 'w' REQUIRE X509; GRANT ALL ON *.* TO w@'%'")
    mine = right.client("w")
    url = as_user(url, "w:w")
    assert answer(f"{ca}&ssl_cert={mine.certificate}&ssl_key={mine.key}")
    with opened(url + ca) as store, pytest.raises(errors.AuthenticationFailed):
        store.put(record())


def test_server_without_tls_is_refused(mysql_url: str, tmp_path: Path) -> None:
    with opened(f"{mysql_url}?ssl_ca={Authority(tmp_path).certificate}") as store:
        with pytest.raises(errors.StoreError, match="SSL") as caught:
            store.put(record())
        assert not caught.value.retryable


# -- schema ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [0, 1, 2, 3, 4])
def test_unfinished_tables_are_completed(mysql_server: MariaDBServer, mysql_url: str, made: int) -> None:
    """The process that created them died after ``made`` statements."""
    with opened(mysql_url) as store:
        script = store.schema.sql()  # type: ignore[attr-defined]
        name = mysql_url.rpartition("/")[2]
        registry, *tables = [f"CREATE TABLE {rest}" for rest in script.split("CREATE TABLE ")[1:]]
        mysql_server.execute(registry.partition(";\n")[0], name)
        mysql_server.execute(
            "INSERT INTO rootcellar_schema VALUES ('celery_taskmeta', 'g', 0, NULL, NULL, NULL, NOW())", name
        )
        for table in tables[:made]:
            mysql_server.execute(table.partition(";\n")[0], name)
        one = record()
        assert store.put(one).written
        assert store.count_part(part(new_id())).counted == 1
        status = store.schema.status()  # type: ignore[attr-defined]
        assert (status.version, status.foreign) == (status.wanted, ())


# -- many at once ------------------------------------------------------------------------------------------------------


def test_eight_processes_never_get_a_deadlock_error(
    mysql_server: MariaDBServer,
    mysql_url: str,
    processes: SyncedProcesses,  # noqa: F811
) -> None:
    with opened(mysql_url) as store:
        groups = [begun(store, 8, expires_at=NOW - timedelta(1)) for _ in range(4)]
    ids = [new_id() for _ in range(30)]
    counts = processes.run_alike(8, _quarrel, mysql_url, ids, groups)
    assert counts == [120] * 8


def _quarrel(url: str, ids: list[str], groups: list[str], number: int) -> int:
    """Store, delete and clean up the same tasks and chords as the other processes, in another order."""
    store = open_store(url)
    done = 0
    for turn in range(4):
        for place in range(30):
            task_id = ids[(place * (2 * number + 1) + turn) % 30]
            one = record(task_id=task_id, state="FAILURE", expires_at=NOW + timedelta(days=(turn + number) % 2 * 2 - 1))
            if place % 3 == 0:
                store.put(one, part(groups[place % 4], task_id, number))
            elif place % 7 == 0:
                store.delete(ids[place:])
            elif place % 10 == 1:
                store.delete_expired(NOW, limit=10)
            elif place % 11 == 1:
                store.finish_chord(groups[place % 4])
            else:
                store.put(one)
            done += 1
    store.close()
    return done


def test_deadlocked_transaction_is_retried(store: MySQLStore, mysql_url: str) -> None:
    """A real deadlock, made by transactions that lock two rows in opposite orders."""
    one, other = record(state="STARTED"), record(state="STARTED")
    store.put(one)
    store.put(other)
    meet = threading.Barrier(2)
    runs = []

    def lock(ids: list[str]) -> None:
        def work(connection: Any) -> None:
            runs.append(1)
            with connection.transaction():
                for task_id in ids:
                    connection.execute("UPDATE celery_taskmeta SET retries = 1 WHERE task_id = %(id)s", {"id": task_id})
                    if len(runs) <= 2 and task_id == ids[0]:
                        meet.wait(10)

        store._run(work)

    ids = [one.task_id, other.task_id]
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(lock, ids), pool.submit(lock, ids[::-1])]:
            done.result()
    assert len(runs) > 2, "one of them was rolled back, and retried"


def test_row_that_is_locked_for_long_is_an_outage(
    store: MySQLStore, mysql_server: MariaDBServer, mysql_url: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(driver, "SESSION", (*driver.SESSION, "SET SESSION innodb_lock_wait_timeout = 1"))
    monkeypatch.setattr("rootcellar.stores.mysql.store._CONFLICT_TRIES", 2)
    one = record(state="STARTED")
    store.put(one)
    store.close()
    with closing(pymysql.connect(**connection_settings(mysql_url, {}))) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT * FROM celery_taskmeta FOR UPDATE")
        with pytest.raises(errors.StoreUnavailable, match="Lock wait timeout"):
            store.put(one)
        holder.rollback()
    assert store.put(one).written


#: the words that MySQL 8 and 9 reserve, and MariaDB does not: there, they are no names of columns and tables
RESERVED_BY_MYSQL_ONLY = re.compile(
    r"\b(cube|cume_dist|dense_rank|empty|first_value|function|grouping|groups|json_table|lag|last_value|lateral|lead|"
    r"library|manual|nth_value|ntile|parallel|percent_rank|qualify|rank|system|tablesample)\b"
)


@pytest.mark.parametrize("file", sorted(path.name for path in SQL.iterdir() if path.name.endswith(".sql")))
def test_sql_of_mysql_has_no_word_that_mysql_8_reserves(file: str) -> None:
    text = SQL.joinpath(file).read_text()
    words = re.sub(r"--.*|'[^']*'|`[^`]*`|\{\w+\}|%\(\w+\)s", " ", text).lower()
    assert not RESERVED_BY_MYSQL_ONLY.findall(words)
