"""Connecting to one server: URLs, users, TLS, and clear errors without passwords."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from rootcellar import errors
from rootcellar.backend.options import store_options
from rootcellar.stores import StoreOptions, open_store
from rootcellar.stores.redis import replication, server_info
from rootcellar.stores.redis.address import read_address
from rootcellar.support.forking import PerProcess
from tests.certificates import Authority
from tests.helpers import new_id, record, wait_until
from tests.redis.helpers import opened, our_app
from tests.redis_servers import SecureRedisServer
from tests.servers import HOST, RedisServer, free_port

PASSWORD = "p@ss:w/rd%#? 100"
QUOTED = "p%40ss%3Aw%2Frd%25%23%3F%20100"


# -- URLs


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("redis://", "redis localhost:6379/0"),
        ("redis://host", "redis host:6379/0"),
        ("redis://host:7000/3", "redis host:7000/3"),
        (f"redis://:{QUOTED}@host/db2", "redis host:6379/2"),
        (f"redis://me:{QUOTED}@[::1]:7000/3", "redis me@[::1]:7000/3"),
        (f"rediss://me:{QUOTED}@host/1", "redis me@host:6379/1 with TLS"),
        ("redis://host?db=4", "redis host:6379/4"),
        ("redis+socket:///run/redis.sock", "redis /run/redis.sock db 0"),
        (f"unix://me:{QUOTED}@/run/redis.sock?virtual_host=5", "redis me@/run/redis.sock db 5"),
        ("socket:///run/re%20dis.sock?virtual_host=/6", "redis /run/re dis.sock db 6"),
    ],
)
def test_url_names_its_server(url: str, where: str) -> None:
    address = read_address(url, StoreOptions())
    assert address.where == where
    assert address.connect["password"] == (PASSWORD if QUOTED in url else None)
    assert PASSWORD not in repr(address)
    assert open_store(f"rootcellar+{url}").where == where


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("redis://me:p@ss@host", "an @ where none can be"),
        ("redis://me:pa/ss@host", "not a number|an @ where none can be"),
        ("redis://host:port/0", "port that is not a number"),
        ("redis://host:70000/0", "number from 1 to 65535"),
        ("redis://host:²/0", "number from 1 to 65535"),
        ("redis://host/results", "database is not a number"),
        ("redis://me@host", "a user but no password"),
        ("redis://host?password=secret", "tools that hide passwords do not find it"),
        ("redis://host?sockettimeout=1", "sockettimeout=, which is not known"),
        ("redis://host?socket_timeout=soon", "socket_timeout is not a number"),
        ("redis://host?socket_timeout=0", "socket_timeout is 0"),
        ("redis://host?health_check_interval=often", "health_check_interval is not a number"),
        ("redis://host?ssl_ca_certs=x", "the URL is one without TLS"),
        ("rediss://host?ssl_cert_reqs=maybe", "ssl_cert_reqs is 'maybe'"),
        ("redis+socket://host/run/redis.sock", "names no socket"),
    ],
)
def test_unusable_url_is_refused(url: str, match: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=match) as caught:
        open_store(url)
    assert caught.value.remedy
    for secret in ("pa/ss", "p@ss", "ss@host", "secret"):
        assert secret not in str(caught.value)


def test_celerys_settings_reach_the_address() -> None:
    app = our_app(
        "rediss://host",
        redis_backend_use_ssl={"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": "/ca.pem"},
        redis_username="me",
        redis_password="secret",
        redis_socket_timeout=7,
        redis_socket_connect_timeout="2.5",
        redis_max_connections=3,
        redis_backend_health_check_interval=9,
        redis_client_name="pantry",
        result_backend_transport_options={"global_keyprefix": "shop"},
    )
    options = store_options(app.conf)
    assert (options.section("redis")["max_connections"], options.transport_options) == (3, {"global_keyprefix": "shop"})
    address = read_address("rediss://host", options)
    assert address.connect == {
        **{"username": "me", "password": "secret", "socket_timeout": 7.0, "socket_connect_timeout": 2.5},
        **{"client_name": "pantry", "socket_keepalive": True},
    }
    assert address.idle_before_ping == 9
    assert read_address("rediss://host?health_check_interval=0", options).idle_before_ping == float("inf")
    assert address.tls == {
        **{"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": "/ca.pem", "ssl_check_hostname": True}
    }
    assert read_address("rediss://host", StoreOptions()).tls == {
        **{"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
    }


def test_url_overrides_the_settings() -> None:
    options = StoreOptions(sections={"redis": {"username": "other", "password": "other", "socket_timeout": 7}})
    connect = read_address("redis://me:mine@host?socket_timeout=3", options).connect
    assert (connect["username"], connect["password"], connect["socket_timeout"]) == ("me", "mine", 3.0)


def test_eight_threads_share_two_connections(redis_url: str) -> None:
    with (
        opened(redis_url, sections={"redis": {"max_connections": 2}}, pool_timeout=20) as store,
        redis.Redis.from_url(redis_url) as c,
    ):
        before = len(c.client_list())
        threads = [threading.Thread(target=lambda: [store.put(record()) for _ in range(50)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(c.client_list()) - before <= 2
        assert len(store.scan()) == 400


@pytest.mark.parametrize(("interval", "pings"), [(0.000001, 3), (0, 0), (None, 0)])
def test_idle_connection_is_tested(new_redis: Callable[..., RedisServer], interval: float | None, pings: int) -> None:
    server = new_redis()
    with (
        opened(server.url, sections={"redis": {"backend_health_check_interval": interval}}) as store,
        server.client() as admin,
    ):
        admin.config_resetstat()
        for _ in range(4):
            store.get("x")
        assert admin.info("commandstats").get("cmdstat_ping", {"calls": 0})["calls"] == pings


# -- refusals


def refusal(url: str, **options: Any) -> errors.StoreError:
    """Return the error that a first use of the store raises."""
    store = open_store(url, StoreOptions(**options))
    with pytest.raises(errors.StoreError) as caught:
        store.check()
    store.close()
    text = str(caught.value)
    assert caught.value.where
    assert caught.value.remedy
    for secret in (PASSWORD, QUOTED, "wrong-secret"):
        assert secret not in text
    return caught.value


def test_address_without_a_server_is_an_outage() -> None:
    error = refusal(f"redis://:{QUOTED}@{HOST}:{free_port()}/0")
    assert isinstance(error, errors.StoreUnavailable)
    assert error.retryable
    assert isinstance(refusal("redis+socket:///nonexistent/redis.sock"), errors.StoreUnavailable)


def test_password_with_special_characters_is_accepted(new_redis: Callable[..., RedisServer]) -> None:
    server = new_redis()
    with redis.Redis.from_url(server.url) as admin:
        admin.config_set("requirepass", PASSWORD)
    place = f"{HOST}:{server.port}"
    open_store(f"redis://:{QUOTED}@{place}").check()
    for url in (f"redis://{place}", f"redis://:wrong-secret@{place}", f"redis://nobody:wrong-secret@{place}"):
        error = refusal(url)
        assert isinstance(error, errors.AuthenticationFailed), url
        assert not error.retryable
    with redis.Redis.from_url(server.url, password=PASSWORD) as admin:
        admin.config_set("requirepass", "")


def test_user_without_a_right_gets_permission_denied(secure_redis_server: SecureRedisServer) -> None:
    with redis.Redis.from_url(secure_redis_server.url) as admin:
        admin.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~celery-task-meta-*", "+get", "+exists")
    with opened(f"redis://reader:secret@{HOST}:{secure_redis_server.port}") as store:
        assert store.get(new_id()) is None
        with pytest.raises(errors.PermissionDenied, match=r"NOPERM|permission") as caught:
            store.put(record())
    assert not caught.value.retryable


def test_missing_database_is_refused(new_redis: Callable[..., RedisServer]) -> None:
    server = new_redis(databases=4)
    open_store(server.database_url(3)).check()
    assert isinstance(refusal(server.database_url(4)), errors.DatabaseMissing)


def test_server_without_memory_is_an_outage(new_redis: Callable[..., RedisServer]) -> None:
    server = new_redis(maxmemory="3mb")
    with opened(server.url) as store:

        def fill() -> None:
            for _ in range(200):
                store.put(record(value="x" * 100_000))

        with pytest.raises(errors.DiskFull) as caught:
            fill()
        assert caught.value.retryable
        assert "maxmemory" in caught.value.remedy


def test_replica_is_refused_as_read_only(new_redis: Callable[..., RedisServer]) -> None:
    server = new_redis()
    replica = new_redis()
    with redis.Redis.from_url(replica.url) as client:
        client.replicaof(HOST, server.port)
    with opened(replica.url) as store, pytest.raises(errors.StoreReadOnly) as caught:
        store.put(record())
    assert caught.value.retryable


def test_silent_replica_does_not_fail_a_write(
    new_redis: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    """Replicas that do not reply within ``socket_timeout`` are missing; the write is not repeated."""
    server, replica = new_redis(repl_diskless_sync_delay=0), new_redis()
    with redis.Redis.from_url(replica.url) as client:
        client.replicaof(HOST, server.port)
    with redis.Redis.from_url(server.url) as client:
        wait_until(lambda: client.info("replication").get("slave0", {}).get("state") == "online", "a replica")
    with opened(f"{server.url}?socket_timeout=0.5", transport_options={"wait_replicas": 1}) as store:
        replica.pause()
        try:
            assert store.put(record()).written
        finally:
            replica.resume()
    assert "0 of 1 replicas answered" in caplog.text


def test_write_does_not_wait_for_missing_replicas(
    redis_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replication, "RESPITE_SECONDS", 0.0)
    with redis.Redis.from_url(redis_url) as client:
        client.config_resetstat()
        with opened(redis_url, transport_options={"wait_replicas": 1, "wait_timeout": 5}) as store:
            for _ in range(20):
                assert store.put(record()).written
        assert "cmdstat_wait" not in client.info("commandstats"), "no WAIT command"
    assert caplog.text.count("0 of 1 replicas are connected") == 1, "it is logged once"


# -- TLS


def test_tls_works_with_a_client_certificate_and_a_user(secure_redis_server: SecureRedisServer) -> None:
    with opened(secure_redis_server.tls_url()) as store:
        one = record()
        store.put(one)
        assert store.get(one.task_id) == one
    settings = {
        **{"ssl_ca_certs": str(secure_redis_server.authority.certificate), "ssl_cert_reqs": "required"},
        **{
            "ssl_certfile": str(secure_redis_server.certificate.certificate),
            "ssl_keyfile": str(secure_redis_server.certificate.key),
        },
    }
    url = secure_redis_server.tls_url(ssl_ca_certs=None, ssl_certfile=None, ssl_keyfile=None)
    with opened(url, sections={"redis": {"backend_use_ssl": settings}}) as store:
        assert store.get(one.task_id) == one


@contextmanager
def secure(*hosts: str, days: int = 30) -> Iterator[SecureRedisServer]:
    with SecureRedisServer(hosts=hosts or (HOST,), days=days) as server:
        yield server


def test_wrong_ca_is_refused(secure_redis_server: SecureRedisServer, tmp_path: Path) -> None:
    for ca in (Authority(tmp_path, "Another CA").certificate, None):  # without one, the system's CAs are used
        error = refusal(secure_redis_server.tls_url(ssl_ca_certs=ca))
        assert type(error) is errors.CertificateRefused
        assert error.what.startswith("wrong CA")
        assert not error.retryable


def test_expired_certificate_is_refused() -> None:
    with secure(days=-1) as server:
        error = refusal(server.tls_url())
    assert isinstance(error, errors.CertificateExpired)
    assert error.what.startswith("expired certificate")
    assert error.retryable, "the certificate may be renewed while the worker retries"


@pytest.mark.parametrize("hosts", [("example.com",), ("127.0.0.2",)])
def test_wrong_host_name_is_refused(hosts: tuple[str, ...]) -> None:
    with secure(*hosts) as server:
        error = refusal(server.tls_url())
        assert type(error) is errors.CertificateRefused
        assert error.what.startswith("wrong host name")
        assert HOST in error.what
        open_store(server.tls_url(ssl_check_hostname="false")).check()


def test_missing_client_certificate_is_refused(secure_redis_server: SecureRedisServer) -> None:
    error = refusal(secure_redis_server.tls_url(ssl_certfile=None, ssl_keyfile=None))
    assert type(error) is errors.CertificateRefused
    assert "our certificate" in error.what


def test_server_without_tls_is_an_outage(secure_redis_server: SecureRedisServer) -> None:
    url = secure_redis_server.tls_url(socket_timeout=0.5)
    error = refusal(url.replace(f":{secure_redis_server.tls_port}/", f":{secure_redis_server.port}/"))
    assert isinstance(error, errors.StoreUnavailable)
    assert "speaks TLS" in error.remedy


def test_unverified_tls_is_logged(secure_redis_server: SecureRedisServer, caplog: pytest.LogCaptureFixture) -> None:
    open_store(secure_redis_server.tls_url(ssl_ca_certs=None, ssl_cert_reqs="none")).check()
    assert "not fully verified" in caplog.text
    assert PASSWORD not in caplog.text
    assert QUOTED not in caplog.text


# -- properties of the server


@pytest.mark.parametrize(
    ("policy", "maxmemory", "expected"),
    [
        ("noeviction", "100mb", None),
        ("allkeys-lru", "0", None),
        ("allkeys-lru", "100mb", "whether or not they have expired"),
        ("volatile-ttl", "100mb", "results that expire later"),
    ],
)
def test_eviction_policy_is_logged_once(
    new_redis: Callable[..., RedisServer],
    caplog: pytest.LogCaptureFixture,
    policy: str,
    maxmemory: str,
    expected: str | None,
) -> None:
    server = new_redis(maxmemory=maxmemory, maxmemory_policy=policy)
    for _ in range(2):
        with opened(server.url) as store:
            store.put(record())
    messages = [one.getMessage() for one in caplog.records if "maxmemory-policy" in one.getMessage()]
    assert len(messages) == (1 if expected else 0), "once in a process"
    if expected:
        assert expected in messages[0]
        assert policy in messages[0]


def test_user_without_info_can_store(new_redis: Callable[..., RedisServer]) -> None:
    server = new_redis(maxmemory="100mb", maxmemory_policy="allkeys-lru")
    with redis.Redis.from_url(server.url) as admin:
        admin.execute_command("ACL", "SETUSER", "shy", "on", ">x", "~*", "&*", "+@all", "-info", "-config")
    with opened(server.url.replace("://", "://shy:x@")) as store:
        assert store.put(record()).written


def test_server_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    monkeypatch.setattr(server_info, "OLDEST_SERVER", 99)
    monkeypatch.setattr(server_info, "_checked", PerProcess(set))
    assert isinstance(refusal(redis_url), errors.ServerTooOld)


def test_server_of_another_kind_is_an_error(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            connection.recv(100)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        error = refusal(f"redis://{HOST}:{listener.getsockname()[1]}/0")
    assert isinstance(error, errors.StoreError)
