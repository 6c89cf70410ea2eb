"""Redis: one server, Sentinel, or a cluster."""

from __future__ import annotations

from rootcellar.descriptions.description import Advice, Architecture, BackendDescription, Project

REDIS = BackendDescription(
    name="redis",
    title="Redis",
    schemes=("redis", "rediss", "unix", "socket", "sentinel", "redis-cluster", "rediss-cluster"),
    store="rootcellar.stores.redis",
    driver="redis",
    extra="redis",
    variables=("rootcellar.configuration.variables:RedisVariables",),
    prefixes=("REDIS_",),
    url_variables=frozenset(
        {
            "REDIS_HOST",
            "REDIS_PORT",
            "REDIS_SOCKET",
            "REDIS_USERNAME",
            "REDIS_PASSWORD",
            "REDIS_DB",
            "REDIS_SENTINELS",
            "REDIS_CLUSTER_NODES",
            "REDIS_SSL",
            "REDIS_SSL_CA_CERTS",
            "REDIS_SSL_CERTFILE",
            "REDIS_SSL_KEYFILE",
            "REDIS_SSL_CERT_REQS",
            "REDIS_SSL_CHECK_HOSTNAME",
            "REDIS_SENTINEL_MASTER",
            "REDIS_SENTINEL_USERNAME",
            "REDIS_SENTINEL_PASSWORD",
            "REDIS_SENTINEL_SSL",
        }
    ),
    url="rootcellar.configuration.urls:redis",
    settings="rootcellar.configuration.celery_settings:redis_settings",
    setting_prefixes=("redis_",),
    password=("redis", "REDIS_PASSWORD"),
    checks="rootcellar.checks.redis",
    findings="rootcellar.checks.register.redis",
    page="docs/redis.md",
    advice=Advice(
        runs={"redis": "a Redis server", "sentinel": "Redis with Sentinel", "cluster": "a Redis Cluster"},
        cautions=("Redis needs maxmemory-policy noeviction, and appendonly yes if results must survive a restart.",),
        architectures={"redis": Architecture("Redis only", "development", (10, 30), "volatile")},
    ),
    # Redis may be the broker, too: its variables and its server are in onboarding/
    project=Project(
        kept="in Redis",
        note="A crash of Redis's machine may lose the last second. If results must not be lost, use PostgreSQL.",
    ),
)
