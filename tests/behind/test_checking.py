"""`rootcellar check` on a hybrid in write-behind mode."""

from __future__ import annotations

import pytest

from rootcellar.checks import hybrid as checking
from rootcellar.checks.choosing import sections_for
from rootcellar.checks.findings import Level
from rootcellar.checks.steps import run
from rootcellar.checks.target import target_of
from rootcellar.stores import Store
from rootcellar.stores.hybrid import WriteBehindStore
from tests.helpers import record, wait_until
from tests.servers import RedisServer


def problems_of(durable_url: str, cache_url: str) -> dict[str, str]:
    """Return the problems by name, each with what was seen."""
    options = {"durable_url": durable_url, "cache_url": cache_url, "mode": "write-behind"}
    target = target_of({"result_backend": "rootcellar+hybrid://", "result_backend_transport_options": options})
    findings = [finding for section in sections_for(target) for finding in run(section)]
    return {one.code: one.seen for one in findings if one.level in (Level.FAILURE, Level.WARNING)}


def test_healthy_write_behind_passes_and_leaves_nothing(
    postgres_url: str, own_redis: RedisServer, durable: Store
) -> None:
    durable.check()
    found = problems_of(postgres_url, own_redis.url)
    assert {code for code in found if code.startswith(("hybrid", "redis", "round"))} == set()
    assert len(durable.scan()) == 0
    with own_redis.client() as client:
        assert [key for key in client.scan_iter() if not key.startswith(b"rootcellar-journal")] == []
        assert client.xlen("rootcellar-journal") == client.hlen("rootcellar-journal-versions") == 0


def test_check_reports_problems_of_write_behind(
    postgres_url: str, front_url: str, redis_url: str, behind: WriteBehindStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "append-only" in problems_of(postgres_url, redis_url)["append-only-missing"]
    behind.put(record(retries=2**80))
    behind.drain()
    found = problems_of(postgres_url, front_url)
    assert "everysec" in found["hybrid-window"]
    assert "1 stay" in found["hybrid-refused"]
    monkeypatch.setattr(checking, "MAX_LAG_SECONDS", 0.1)
    behind.put(record())
    wait_until(lambda: behind.lag().oldest > 0.2, "an age")
    assert "waiting: 1" in problems_of(postgres_url, front_url)["hybrid-lag"]
