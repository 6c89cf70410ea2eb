"""The names, purposes and costs of common set-ups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rootcellar.onboarding.recommend.setup import Setup


@dataclass(frozen=True, slots=True)
class Architecture:
    """A set-up that has a name.

    Attributes:
        name: how people call it.
        use: what it is for.
        cost: dollars a month for small managed servers, from and to: an estimate.
        persistence: what is left of results in the end.
    """

    name: str
    use: str
    cost: tuple[int, int]
    persistence: str

    def as_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {
            "name": self.name,
            "use": self.use,
            "cost_per_month_usd_estimate": list(self.cost),
            "persistence": self.persistence,
        }


ARCHITECTURES: dict[tuple[str, str], Architecture] = {
    ("redis", "redis"): Architecture("Redis only", "development", (10, 30), "volatile"),
    ("redis", "postgres"): Architecture("Redis + PostgreSQL", "production", (30, 80), "permanent"),
    ("rabbitmq", "postgres"): Architecture("RabbitMQ + PostgreSQL", "high reliability", (50, 150), "permanent"),
    ("redis", "hybrid"): Architecture(
        "Hybrid (Redis in front of PostgreSQL)", "high throughput", (40, 100), "permanent"
    ),
    ("rabbitmq", "hybrid"): Architecture(
        "Hybrid (Redis in front of PostgreSQL)", "high throughput", (40, 100), "permanent"
    ),
}


def architecture_of(setup: Setup) -> Architecture | None:
    """Return what a set-up is called, by its broker and its backend."""
    return ARCHITECTURES.get((setup.broker, setup.backend))
