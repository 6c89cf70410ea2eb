"""A hybrid: Redis in front of PostgreSQL."""

from __future__ import annotations

from rootcellar.descriptions.description import Advice, Architecture, BackendDescription, Project

_HIGH_THROUGHPUT = Architecture("Hybrid (Redis in front of PostgreSQL)", "high throughput", (40, 100), "permanent")

HYBRID = BackendDescription(
    name="hybrid",
    title="Redis in front of PostgreSQL",
    schemes=("hybrid",),
    combines=("postgres", "redis"),
    store="rootcellar.stores.hybrid",
    needs_cleaning=True,
    variables=("rootcellar.configuration.variables:HybridVariables",),
    prefixes=("HYBRID_",),
    url="rootcellar.configuration.urls:hybrid",
    settings="rootcellar.configuration.celery_settings:hybrid_settings",
    checks="rootcellar.checks.hybrid",
    page="docs/hybrid.md",
    advice=Advice(
        cautions=("Give the copies a Redis of their own, or a database number of one; they need no persistence.",),
        architectures={"redis": _HIGH_THROUGHPUT, "rabbitmq": _HIGH_THROUGHPUT},
    ),
    project=Project(kept="in PostgreSQL, with Redis in front of it"),
)
