"""``rootcellar check broker`` and ``check rpc``, on RabbitMQ and Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery._state import task_join_will_block

from tests.checks.helpers import (
    CLOSED,
    assert_broken,
    assert_healthy,
    assert_warned,
    check_broker,
    check_rpc,
    configured,
    on_rabbit,
    on_redis,
)
from tests.servers import HOST, RabbitServer, RedisServer

#: the Redis of the tests keeps nothing on disk
VOLATILE = ("broker-persistence",)


@pytest.fixture(scope="module")
def vhost(rabbit_server: RabbitServer) -> str:
    return rabbit_server.create_vhost()


@pytest.fixture(scope="module")
def guarded(rabbit_server: RabbitServer, vhost: str) -> Iterator[str]:
    """The URL of a user who has no rights yet."""
    rabbit_server.call("rabbit_auth_backend_internal", "add_user", '[<<"checked">>, <<"pw">>, <<"test">>]')
    yield vhost.replace("guest:guest@", "checked:pw@")
    rabbit_server.call("rabbit_auth_backend_internal", "delete_user", '[<<"checked">>, <<"test">>]')


class TestRabbitMQ:
    def test_healthy_broker_passes(self, rabbit_server: RabbitServer, vhost: str) -> None:
        before = on_rabbit(rabbit_server)
        seen = check_broker(vhost)
        assert_healthy(seen)
        assert "RabbitMQ" in seen.line("server").seen
        assert on_rabbit(rabbit_server) == before

    def test_closed_port_is_reported(self) -> None:
        assert_broken(check_broker(f"amqp://guest:guest@{HOST}:{CLOSED}//"), "tcp-refused")

    def test_unknown_host_is_reported(self) -> None:
        assert_broken(check_broker("amqp://guest:guest@no-such-host.invalid//"), "name-unresolved")

    def test_wrong_password_is_reported(self, vhost: str) -> None:
        assert_broken(check_broker(vhost.replace("guest:guest", "guest:wrong")), "authentication-failed", "guest")

    def test_missing_vhost_is_reported(self, rabbit_server: RabbitServer) -> None:
        url = f"amqp://guest:guest@{HOST}:{rabbit_server.port}/nowhere"
        assert_broken(check_broker(url), "broker-vhost-missing", "nowhere not found")

    def test_vhost_closed_to_the_user_is_reported(self, guarded: str) -> None:
        assert_broken(check_broker(guarded), "broker-vhost-missing", "refused")

    def test_user_without_rights_is_reported(self, rabbit_server: RabbitServer, vhost: str, guarded: str) -> None:
        rabbit_server.set_rights(vhost.rpartition("/")[2], "checked", "^none$")
        assert_broken(check_broker(guarded), "broker-no-rights", "ACCESS_REFUSED")

    def test_broker_that_blocks_senders_is_reported(self, rabbit_server: RabbitServer, vhost: str) -> None:
        rabbit_server.call("vm_memory_monitor", "set_vm_memory_high_watermark", "[0.0001]")
        try:
            seen = check_broker(vhost)
        finally:
            rabbit_server.call("vm_memory_monitor", "set_vm_memory_high_watermark", "[0.4]")
        assert_broken(seen, "broker-blocked")

    def test_missing_tls_is_reported(self, vhost: str) -> None:
        seen = check_broker(vhost.replace("amqp:", "amqps:"), broker_use_ssl={"cert_reqs": 2})
        assert_broken(seen, "tls-not-offered")


class TestRedis:
    def test_healthy_broker_passes(self, redis_server: RedisServer) -> None:
        before = on_redis(redis_server)
        assert_healthy(check_broker(redis_server.database_url(8_000)), but_for=VOLATILE)
        assert on_redis(redis_server) == before

    def test_closed_port_is_reported(self) -> None:
        assert_broken(check_broker(f"redis://{HOST}:{CLOSED}/0"), "tcp-refused")

    def test_eviction_is_reported(self, redis_server: RedisServer) -> None:
        with configured(redis_server, maxmemory="500mb", maxmemory_policy="allkeys-lru"):
            assert_broken(check_broker(redis_server.url), "broker-eviction", also=VOLATILE)

    def test_missing_persistence_is_reported(self, redis_server: RedisServer) -> None:
        assert_warned(check_broker(redis_server.url), "broker-persistence")

    def test_task_beyond_the_visibility_timeout_is_reported(self, redis_server: RedisServer) -> None:
        conf = {"task_acks_late": True, "broker_transport_options": {"visibility_timeout": 60}}
        seen = check_broker(redis_server.url, task_time_limit=90, **conf)
        assert_warned(seen, "broker-visibility-timeout", "60 s", "90 s", also=VOLATILE)
        assert_healthy(check_broker(redis_server.url, task_time_limit=30, **conf), but_for=VOLATILE)

    def test_user_without_commands_is_reported(self, redis_server: RedisServer) -> None:
        with redis_server.client() as admin:
            admin.execute_command("ACL", "SETUSER", "checked", "reset", "on", ">pw", "+ping", "+info", "+select")
            try:
                seen = check_broker(redis_server.url.replace("//", "//checked:pw@"))
            finally:
                admin.execute_command("ACL", "DELUSER", "checked")
        assert seen.first == "broker-no-rights"


class TestRPC:
    def test_healthy_broker_passes(self, rabbit_server: RabbitServer, rabbit_url: str) -> None:
        before = on_rabbit(rabbit_server)
        seen = check_rpc(rabbit_url)
        assert_healthy(seen)
        assert "test worker ran a task" in seen.line("worker").seen
        assert not task_join_will_block()
        # the server deletes queues with their connections, perhaps a moment later
        for _ in range(20):
            if on_rabbit(rabbit_server) == before:
                break
        assert on_rabbit(rabbit_server) == before

    def test_rpc_over_redis_is_reported(self, redis_server: RedisServer) -> None:
        seen = check_rpc(redis_server.url)
        assert seen.first == "rpc-no-amqp"

    def test_rpc_without_a_broker_is_reported(self) -> None:
        assert_broken(check_rpc(""), "rpc-no-amqp")

    def test_rpc_with_a_broker_that_is_down_is_reported(self) -> None:
        seen = check_rpc(f"amqp://guest:guest@{HOST}:{CLOSED}//")
        assert seen.first == "tcp-refused"
        assert set(seen.failures) == {"tcp-refused", "rpc-round-trip"}


def test_unknown_broker_is_reported() -> None:
    seen = check_broker("memory://")
    assert_warned(seen, "broker-unknown")
