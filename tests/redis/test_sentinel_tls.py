"""Sentinels, master and replica that use only TLS, with client certificates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rootcellar
from rootcellar import errors
from tests.certificates import Authority
from tests.helpers import record, wait_until
from tests.redis.helpers import opened, our_app
from tests.redis_servers import TlsSentinelSet
from tests.servers import HOST


@pytest.fixture(scope="module")
def servers() -> Iterator[TlsSentinelSet]:
    with TlsSentinelSet() as found:
        yield found


def files(servers: TlsSentinelSet, ca: Path | None = None) -> dict[str, Any]:
    return {
        "ssl_ca_certs": str(ca or servers.authority.certificate),
        "ssl_certfile": str(servers.certificate.certificate),
        "ssl_keyfile": str(servers.certificate.key),
    }


def settings(servers: TlsSentinelSet, ca: Path | None = None, sentinel_ca: Path | None = None) -> dict[str, Any]:
    """Return a store's options for the master's TLS and the Sentinels' TLS."""
    theirs = {"ssl": True, **files(servers, sentinel_ca)}
    return {
        "sections": {"redis": {"backend_use_ssl": files(servers, ca)}},
        "transport_options": {"sentinel_kwargs": theirs},
    }


def test_wrong_ca_is_refused_for_master_and_sentinels(servers: TlsSentinelSet, tmp_path: Path) -> None:
    other = Authority(tmp_path, "Another CA").certificate
    for options in (settings(servers, ca=other), settings(servers, sentinel_ca=other)):
        with opened(servers.url, **options) as store, pytest.raises(errors.CertificateRefused, match="wrong CA"):
            store.check()


def test_sentinel_with_tls_refuses_plain_connections(servers: TlsSentinelSet) -> None:
    options = {"sections": {"redis": {"backend_use_ssl": files(servers), "socket_timeout": 1.0}}}
    with opened(servers.url, **options) as store, pytest.raises(errors.StoreUnavailable, match="no Sentinel knows"):
        store.check()


def test_sentinel_tls_is_configured_by_variables(
    servers: TlsSentinelSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    hosts = ",".join(f"{HOST}:{servers.port_of(sentinel)}" for sentinel in servers.sentinels)
    given = {
        "CELERY_RESULT_BACKEND": "redis",
        "REDIS_SENTINELS": hosts,
        "REDIS_SENTINEL_MASTER": servers.master_name,
        "REDIS_SSL": "true",
        **{f"REDIS_{name.upper()}": value for name, value in files(servers).items()},
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    found = rootcellar.settings(broker=False)
    app = our_app("")
    app.config_from_object(found)
    app.backend.store_result("by-tls", {"kept": True}, "SUCCESS")
    assert app.AsyncResult("by-tls").get(timeout=30) == {"kept": True}
    app.backend.store.close()


def test_failover_over_tls_keeps_results(servers: TlsSentinelSet) -> None:
    """This test is the last one, because it kills the master."""
    with opened(servers.url, **settings(servers)) as store:
        ones = [record(value=number) for number in range(50)]
        for one in ones:
            assert store.put(one).written
        old = servers.master
        old.kill()

        def is_stored() -> bool:
            try:
                store.put(record())
            except errors.StoreError:
                return False
            return store.get_many(one.task_id for one in ones) == {one.task_id: one for one in ones}

        wait_until(is_stored, "all results, and new ones, on the former replica", 30)
        assert servers.master is not old
