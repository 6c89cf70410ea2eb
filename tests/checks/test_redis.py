"""``rootcellar check`` on Redis, alone, with Sentinels and as a Cluster, and on hybrids."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
import redis

from rootcellar.records import TaskRecord
from rootcellar.stores import open_store
from tests.certificates import Authority
from tests.checks.helpers import (
    CLOSED,
    assert_broken,
    assert_healthy,
    assert_warned,
    check,
    configured,
    on_postgres,
    on_redis,
)
from tests.redis_servers import COMMANDS, KEYS, RedisCluster, SecureRedisServer, SentinelSet
from tests.servers import HOST, IN_URL, PostgresServer, RedisServer

#: the servers of the tests keep nothing on disk
VOLATILE = ("redis-persistence", "redis-snapshots-only")


@pytest.fixture
def url(redis_server: RedisServer) -> str:
    """A database of the shared Redis with a result in it."""
    url = redis_server.database_url(9_500)
    store = open_store(url)
    store.put(TaskRecord(task_id="kept", state="SUCCESS"))
    store.close()
    return url


@contextmanager
def user(server: RedisServer, *rules: str) -> Iterator[str]:
    """Create a user with these rules, and yield its part of a URL."""
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "checked", "reset", "on", ">pw", *rules)
        yield "checked:pw@"
        admin.execute_command("ACL", "DELUSER", "checked")


class TestOneServer:
    def test_healthy_server_passes(self, new_redis: Callable[..., RedisServer]) -> None:
        server = new_redis(appendonly=True)
        store = open_store(server.url)
        store.put(TaskRecord(task_id="kept", state="SUCCESS"))
        store.close()
        before = on_redis(server)
        assert_healthy(check(server.url))
        assert on_redis(server) == before

    def test_user_of_least_privilege_over_tls_passes(self, secure_redis_server: SecureRedisServer) -> None:
        before = on_redis(secure_redis_server)
        seen = check(secure_redis_server.tls_url(7_000))
        assert_healthy(seen, but_for=VOLATILE)
        assert "TLSv1.3, server, verified, expires in 30 days" in seen.line("tls").seen
        assert on_redis(secure_redis_server) == before

    def test_socket_passes(self, secure_redis_server: SecureRedisServer) -> None:
        assert_healthy(check(secure_redis_server.socket_url(7_001)), but_for=VOLATILE)

    def test_missing_socket_is_reported(self, tmp_path: Path) -> None:
        assert_broken(check(f"redis+socket://{tmp_path}/redis.sock"), "tcp-socket")

    def test_closed_port_is_reported(self) -> None:
        assert_broken(check(f"redis://{HOST}:{CLOSED}/0"), "tcp-refused")

    def test_unknown_host_is_reported(self) -> None:
        assert_broken(check("redis://no-such-host.invalid"), "name-unresolved")

    def test_wrong_password_is_reported(self, secure_redis_server: SecureRedisServer) -> None:
        assert_broken(check(secure_redis_server.tls_url().replace(IN_URL, "wrong")), "authentication-failed")

    def test_missing_password_is_reported(self, new_redis: Callable[..., RedisServer]) -> None:
        server = new_redis()
        with server.client() as client:
            client.config_set("requirepass", "pw")
            try:
                assert_broken(check(server.url), "authentication-failed")
            finally:
                client.config_set("requirepass", "")

    def test_missing_database_is_reported(self, redis_server: RedisServer) -> None:
        assert_broken(check(redis_server.database_url(10_001)), "database-missing")

    def test_wrong_ca_is_reported(self, secure_redis_server: SecureRedisServer, tmp_path: Path) -> None:
        url = secure_redis_server.tls_url(ssl_ca_certs=Authority(tmp_path, "Another CA").certificate)
        assert_broken(check(url), "tls-wrong-ca")

    def test_wrong_host_name_is_reported(self, secure_redis_server: SecureRedisServer) -> None:
        assert_broken(check(secure_redis_server.tls_url().replace(HOST, "localhost")), "tls-wrong-name")

    def test_missing_client_certificate_is_reported(self, secure_redis_server: SecureRedisServer) -> None:
        url = secure_redis_server.tls_url(ssl_certfile=None, ssl_keyfile=None)
        assert_broken(check(url), "tls-client-certificate")

    def test_expired_certificate_is_reported(self) -> None:
        with SecureRedisServer(days=-1) as server:
            assert_broken(check(server.tls_url()), "certificate-expired")

    def test_certificate_that_expires_soon_is_reported(self) -> None:
        with SecureRedisServer(days=5) as server:
            assert_warned(check(server.tls_url()), "tls-expires-soon", "5 days", also=VOLATILE)

    def test_missing_tls_is_reported(self, redis_server: RedisServer) -> None:
        assert_broken(check(f"rediss://{HOST}:{redis_server.port}/0"), "tls-not-offered")

    def test_replica_is_reported(self, sentinel_set: SentinelSet) -> None:
        replica = next(server for server in sentinel_set.servers if server is not sentinel_set.master)
        assert_broken(check(replica.url), "store-read-only", "replica")


class TestSettings:
    def test_eviction_is_reported(self, redis_server: RedisServer, url: str) -> None:
        with configured(redis_server, maxmemory="500mb", maxmemory_policy="allkeys-lru"):
            assert_broken(check(url), "redis-eviction", "allkeys-lru", also=VOLATILE)

    def test_eviction_policy_without_a_limit_is_reported(self, redis_server: RedisServer, url: str) -> None:
        with configured(redis_server, maxmemory_policy="volatile-ttl"):
            assert_warned(check(url), "redis-eviction-later", "volatile-ttl", also=VOLATILE)

    def test_missing_persistence_is_reported(self, url: str) -> None:
        assert_warned(check(url), "redis-persistence")

    def test_snapshots_alone_are_reported(self, redis_server: RedisServer, url: str) -> None:
        with configured(redis_server, save="3600 1"):
            assert_warned(check(url), "redis-snapshots-only", "save 3600 1")

    def test_nearly_full_memory_is_reported(self, redis_server: RedisServer, url: str) -> None:
        with redis_server.client() as client:
            client.set("ballast", bytes(60 << 20))
            used = client.info("memory")["used_memory"]
            with configured(redis_server, maxmemory=int(used * 1.15)):
                assert_warned(check(url), "redis-memory", also=VOLATILE)
            client.delete("ballast")

    def test_full_memory_is_reported(self, redis_server: RedisServer, url: str) -> None:
        with configured(redis_server, maxmemory=1 << 20):
            seen = check(url)
        assert seen.first == "redis-memory-full"

    def test_redis_that_cannot_save_is_reported(self, new_redis: Callable[..., RedisServer]) -> None:
        server = new_redis(save="3600 1", dbfilename="taken.rdb")
        # a folder has the name of the file
        (server.folder / "taken.rdb").mkdir()
        with server.client() as client:
            client.set("key", "value")
            with pytest.raises(redis.ResponseError):
                client.save()
            client.bgsave()
            for _ in range(100):
                if client.info("persistence")["rdb_last_bgsave_status"] == "err":
                    break
                time.sleep(0.02)
        seen = check(server.url)
        (server.folder / "taken.rdb").rmdir()
        assert seen.first == "redis-saving-fails"

    def test_too_few_connections_are_reported(self, redis_server: RedisServer, url: str) -> None:
        with configured(redis_server, maxclients=40):
            assert_broken(check(url, processes=60), "redis-too-few-connections", also=VOLATILE)


class TestRights:
    @pytest.mark.parametrize("command", ["eval", "set", "unlink", "scan", "hincrby", "zadd", "publish", "subscribe"])
    def test_missing_command_is_reported(self, redis_server: RedisServer, url: str, command: str) -> None:
        rules = [rule for rule in COMMANDS.split() if rule not in (f"+{command}", "+info")]
        with user(redis_server, *rules, *KEYS.split()) as login:
            seen = check(url.replace("//", f"//{login}"))
        assert_broken(seen, "permission-denied", f"may not: {command.upper()}", also=VOLATILE)

    def test_missing_right_to_keys_is_reported(self, redis_server: RedisServer, url: str) -> None:
        with user(redis_server, *COMMANDS.split(), "~other-*", "resetchannels", "&other-*") as login:
            seen = check(url.replace("//", f"//{login}"))
        assert_broken(seen, "permission-denied", "on our keys", also=VOLATILE)

    def test_missing_commands_are_reported_together(self, redis_server: RedisServer, url: str) -> None:
        rules = [rule for rule in COMMANDS.split() if rule not in ("+hset", "+zrem", "+time")]
        with user(redis_server, *rules, *KEYS.split()) as login:
            seen = check(url.replace("//", f"//{login}"))
        assert set(seen.failures) == {"permission-denied"}
        assert "HSET, ZREM, TIME" in seen.line("rights").seen


class TestSentinel:
    def test_healthy_server_passes(self, sentinel_set: SentinelSet) -> None:
        before = on_redis(*sentinel_set.servers)
        seen = check(sentinel_set.database_url(4_000))
        assert_healthy(seen, but_for=VOLATILE)
        assert "3 know pantry" in seen.line("sentinels").seen
        assert "1 connected" in seen.line("replicas").seen
        assert on_redis(*sentinel_set.servers) == before

    def test_unknown_master_name_is_reported(self, sentinel_set: SentinelSet) -> None:
        seen = check(sentinel_set.url.replace("pantry", "cupboard"))
        assert_broken(seen, "sentinel-unknown-master", "cupboard")

    def test_unreachable_quorum_is_reported(self, sentinel_set: SentinelSet) -> None:
        with sentinel_set.sentinels[0].client() as sentinel:
            sentinel.execute_command("SENTINEL", "SET", "pantry", "quorum", 4)
            try:
                assert_warned(check(sentinel_set.url), "sentinel-quorum", also=VOLATILE)
            finally:
                sentinel.execute_command("SENTINEL", "SET", "pantry", "quorum", 2)

    def test_silent_sentinel_is_reported(self, sentinel_set: SentinelSet) -> None:
        url = sentinel_set.url.replace(f":{sentinel_set.sentinels[1].port}", f":{CLOSED}")
        assert_warned(check(url), "sentinel-some-unreachable", f":{CLOSED}", also=VOLATILE)

    def test_unreachable_sentinels_are_reported(self) -> None:
        assert_broken(check(f"sentinel://{HOST}:{CLOSED}/0?master_name=pantry"), "tcp-refused")

    def test_server_that_is_no_sentinel_is_reported(self, redis_server: RedisServer) -> None:
        url = f"sentinel://{HOST}:{redis_server.port}/0?master_name=pantry"
        assert_broken(check(url), "sentinel-unreachable")

    def test_missing_master_name_is_reported(self) -> None:
        assert_broken(check(f"sentinel://{HOST}:26379/0"), "settings-wrong")


class TestCluster:
    def test_healthy_server_passes(self, redis_cluster: RedisCluster) -> None:
        # keys of other tests would expire during the check, and replicas do not show theirs
        redis_cluster.flush()
        before = on_redis(*redis_cluster.masters)
        seen = check(redis_cluster.url)
        assert_healthy(seen, but_for=VOLATILE)
        assert "3 masters serve all 16384 slots" in seen.line("cluster").seen
        assert on_redis(*redis_cluster.masters) == before

    def test_unserved_slot_is_reported(self, redis_cluster: RedisCluster) -> None:
        with redis_cluster.nodes[0].client() as first:
            first.execute_command("CLUSTER", "DELSLOTS", 100)
            try:
                assert_broken(check(redis_cluster.url), "cluster-slots", "16383 of 16384")
            finally:
                first.execute_command("CLUSTER", "ADDSLOTS", 100)
                redis_cluster.await_healthy()

    def test_single_server_named_as_cluster_is_reported(self, redis_server: RedisServer) -> None:
        assert_broken(check(f"redis-cluster://{HOST}:{redis_server.port}"), "cluster-is-none")

    def test_node_named_as_single_server_is_reported(self, redis_cluster: RedisCluster) -> None:
        assert_broken(check(redis_cluster.nodes[0].url), "cluster-is-one")

    def test_eviction_on_one_master_is_reported(self, redis_cluster: RedisCluster) -> None:
        with configured(redis_cluster.nodes[2], maxmemory="500mb", maxmemory_policy="allkeys-lru"):
            seen = check(redis_cluster.url)
        assert_broken(seen, "redis-eviction", f"{HOST}:{redis_cluster.nodes[2].port}: ", also=VOLATILE)


class TestHybrid:
    def options(self, durable: str, cache: str) -> dict[str, object]:
        return {"result_backend_transport_options": {"durable_url": durable, "cache_url": cache}}

    def test_healthy_server_passes(
        self, postgres_server: PostgresServer, postgres_url: str, redis_server: RedisServer
    ) -> None:
        store = open_store(postgres_url)
        store.check()
        store.close()
        before = on_postgres(postgres_server, postgres_url), on_redis(redis_server)
        seen = check("hybrid://", **self.options(postgres_url, redis_server.url))
        assert_healthy(seen)
        assert "in both" in seen.line("copies").seen
        assert (on_postgres(postgres_server, postgres_url), on_redis(redis_server)) == before

    def test_eviction_in_a_cache_passes(self, postgres_url: str, redis_server: RedisServer) -> None:
        with configured(redis_server, maxmemory="500mb", maxmemory_policy="allkeys-lru"):
            assert_healthy(check("hybrid://", **self.options(postgres_url, redis_server.url)))

    def test_cache_that_is_down_is_reported(self, postgres_url: str) -> None:
        store = open_store(postgres_url)
        store.check()
        store.close()
        seen = check("hybrid://", **self.options(postgres_url, f"redis://{HOST}:{CLOSED}/0"))
        assert seen.first == "tcp-refused"
        assert "hybrid-cache-down" in seen.warnings

    def test_refused_login_to_the_durable_store_is_reported(self, postgres_url: str, redis_server: RedisServer) -> None:
        durable = postgres_url.replace(IN_URL, quote("wrong"))
        assert check("hybrid://", **self.options(durable, redis_server.url)).first == "authentication-failed"

    def test_missing_cache_url_is_reported(self) -> None:
        seen = check("hybrid://", result_backend_transport_options={"durable_url": "postgresql://localhost/x"})
        assert_broken(seen, "settings-wrong", "cache_url")
