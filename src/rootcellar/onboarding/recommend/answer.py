"""Turns a team's needs into a backend, a broker, the reasons, and the variables to set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rootcellar.descriptions import Architecture, Variable, backend_of_name
from rootcellar.onboarding.recommend import figures
from rootcellar.onboarding.recommend.needs import Keep, MayLose, Needs, Readers, Runs
from rootcellar.onboarding.recommend.rules import BACKEND_RULES, BROKER_RULES, PEAK, Rule, is_heavy
from rootcellar.onboarding.recommend.setup import RedisForm, Setup

_EXPIRES = {Keep.ONCE: "1h", Keep.DAYS: "7d", Keep.MONTHS: "90d", Keep.FOREVER: "never"}


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a backend or a broker was chosen.

    Attributes:
        text: the reason.
        evidence: the measured figure, or the statement that it is an estimate.
        is_measured: whether it was measured.
    """

    text: str
    evidence: str
    is_measured: bool


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A recommendation.

    Attributes:
        setup: the broker and the backend.
        architecture: the name and the cost of such a set-up; ``None`` if it has no name.
        backend_reason, broker_reason: the reasons.
        load: the load that the number of tasks causes; empty if the number is unknown.
        cautions: warnings about its use.
    """

    setup: Setup
    architecture: Architecture | None
    backend_reason: Reason
    broker_reason: Reason
    load: str
    cautions: tuple[str, ...]

    @property
    def backend(self) -> str:
        return self.setup.backend

    @property
    def broker(self) -> str:
        return self.setup.broker

    @property
    def variables(self) -> Sequence[Variable]:
        """The variables to set, passwords as placeholders."""
        return self.setup.variables()

    def as_json(self) -> dict[str, Any]:
        """Return it as plain JSON, as ``rootcellar recommend --json`` prints it."""
        named = self.architecture
        return {
            "backend": self.backend,
            "broker": self.broker,
            "architecture": named and named.as_json(),
            "reasons": [
                {"chosen": chosen, "text": reason.text, "evidence": reason.evidence, "measured": reason.is_measured}
                for chosen, reason in ((self.backend, self.backend_reason), (self.broker, self.broker_reason))
            ],
            "load": self.load,
            "figures": figures.measured(),
            "variables": {each.name: each.value for each in self.variables},
            "extras": list(self.setup.extras),
            "packages": list(self.setup.packages),
            "cautions": list(self.cautions),
        }


def recommend(needs: Needs) -> Recommendation:
    """Return the recommendation for these needs."""
    backend = _first(BACKEND_RULES, needs)
    broker = _only_broker(backend.choose) or _first(BROKER_RULES, needs)
    setup = _setup(needs, backend.choose, broker.choose)
    return Recommendation(
        setup=setup,
        architecture=setup.described.advice.architectures.get(setup.broker),
        backend_reason=_reason(backend),
        broker_reason=_reason(broker),
        load=_load(needs),
        cautions=tuple(_cautions(setup, needs)),
    )


def _only_broker(backend: str) -> Rule | None:
    """Return the rule for a backend that works with one broker only, or ``None``."""
    described = backend_of_name(backend)
    if described is None or not described.broker:
        return None
    return Rule(described.broker, lambda _: True, f"With {backend}, {described.broker_reason}.")


def _first(rules: Sequence[Rule], needs: Needs) -> Rule:
    return next(rule for rule in rules if rule.when(needs))


def _setup(needs: Needs, backend: str, broker: str) -> Setup:
    uses_redis = backend in ("redis", "hybrid")
    form = RedisForm.SINGLE
    if Runs.CLUSTER in needs.runs and uses_redis:
        form = RedisForm.CLUSTER
    elif Runs.SENTINEL in needs.runs and (uses_redis or broker == "redis"):
        form = RedisForm.SENTINEL
    return Setup(
        broker=broker,
        backend=backend,
        redis=form,
        pgbouncer=Runs.PGBOUNCER in needs.runs and backend in ("postgres", "hybrid"),
        expires=_EXPIRES.get(needs.keep, "") if needs.keep else "",
        extended=needs.readers is Readers.PEOPLE,
        acks_late=needs.may_lose is MayLose.NOTHING,
    )


def _reason(rule: Rule) -> Reason:
    if not rule.measured:
        return Reason(rule.why, "An estimate: we have not measured this.", is_measured=False)
    measured = ", ".join(f"{figures.figure(row, column)} {what}" for row, column, what in rule.measured)
    return Reason(rule.why, f"We measured {measured}.", is_measured=True)


def _load(needs: Needs) -> str:
    if not needs.tasks_per_day:
        return ""
    average = needs.tasks_per_second
    stored = figures.figure("store, 4 processes", "rootcellar PostgreSQL")
    return (
        f"{needs.tasks_per_day:,} tasks a day are {_rounded(average)} a second on average, "
        f"perhaps {_rounded(average * PEAK)} in a busy one (an estimate). "
        f"Four processes stored {stored} on PostgreSQL."
    )


def _rounded(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _cautions(setup: Setup, needs: Needs) -> Iterator[str]:
    yield from setup.described.advice.cautions
    if setup.backend == "hybrid" and is_heavy(needs):
        yield "If PostgreSQL cannot keep up: HYBRID_MODE=write-behind (docs/hybrid.md)."
    if setup.redis is RedisForm.CLUSTER and setup.broker == "redis":
        yield "Celery has no broker on a Redis Cluster: the broker needs a Redis of its own."
    if setup.broker == "redis" and setup.backend != "redis" and needs.may_lose is MayLose.TASKS:
        yield "Give the broker's Redis appendonly yes, or tasks that wait are gone when it restarts."
