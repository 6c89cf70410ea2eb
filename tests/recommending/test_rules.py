"""`recommend`: the answer for each row of the usual decision matrix and of the usual comparison of architectures."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from rootcellar.configuration import reading
from rootcellar.errors import ConfigurationError
from rootcellar.onboarding.recommend import Keep, MayLose, Needs, Readers, RedisForm, Runs, Setup, figures, recommend
from rootcellar.onboarding.recommend.needs import MEANINGS, QUESTIONS
from rootcellar.onboarding.recommend.setup import BROKERS
from tests.workers import ROOT


def needs(*runs: Runs, **said: Any) -> Needs:
    return Needs(runs=frozenset(runs), **said)


@pytest.mark.parametrize(
    ("said", "backends"),
    [
        # performance priority and short retention
        (needs(tasks_per_day=1_000_000, keep=Keep.DAYS), {"redis"}),
        (needs(keep=Keep.ONCE, readers=Readers.APPS), {"redis"}),
        # long-term storage and queries
        (needs(keep=Keep.MONTHS, readers=Readers.PEOPLE), {"postgres"}),
        (needs(Runs.REDIS, keep=Keep.FOREVER), {"postgres"}),
        (needs(Runs.MYSQL, keep=Keep.MONTHS), {"mysql"}),
        (needs(Runs.MONGODB, readers=Readers.PEOPLE), {"mongodb"}),
        # immediate consumption only
        (needs(keep=Keep.ONCE), {"rpc"}),
        (needs(Runs.REDIS, keep=Keep.ONCE, readers=Readers.SENDER), {"rpc"}),
        # existing Redis
        (needs(Runs.REDIS), {"redis"}),
        (needs(Runs.SENTINEL, keep=Keep.DAYS), {"redis"}),
        # an existing database
        (needs(Runs.POSTGRES), {"postgres"}),
        (needs(Runs.POSTGRES, keep=Keep.DAYS), {"postgres"}),
        (needs(Runs.MYSQL), {"mysql"}),
        (needs(Runs.MONGODB, keep=Keep.DAYS), {"mongodb"}),
        # one machine, without a server
        (needs(Runs.ONE_MACHINE, keep=Keep.MONTHS), {"sqlite"}),
        # nothing said
        (needs(), {"postgres"}),
    ],
)
def test_recommendation_follows_the_decision_matrix(said: Needs, backends: set[str]) -> None:
    assert {recommend(said).backend} == backends


@pytest.mark.parametrize(
    ("said", "backend", "broker", "name", "cost", "persistence"),
    [
        (
            needs(tasks_per_day=1_000, keep=Keep.DAYS, may_lose=MayLose.RESULTS),
            *("redis", "redis", "Redis only", (10, 30), "volatile"),
        ),
        (
            needs(tasks_per_day=50_000, keep=Keep.MONTHS, may_lose=MayLose.TASKS),
            *("postgres", "redis", "Redis + PostgreSQL", (30, 80), "permanent"),
        ),
        (
            needs(keep=Keep.FOREVER, may_lose=MayLose.NOTHING),
            *("postgres", "rabbitmq", "RabbitMQ + PostgreSQL", (50, 150), "permanent"),
        ),
        (
            needs(keep=Keep.MONTHS, readers=Readers.MANY),
            *("hybrid", "redis", "Hybrid (Redis in front of PostgreSQL)", (40, 100), "permanent"),
        ),
        (
            needs(tasks_per_day=50_000_000, keep=Keep.MONTHS),
            *("hybrid", "rabbitmq", "Hybrid (Redis in front of PostgreSQL)", (40, 100), "permanent"),
        ),
    ],
)
def test_recommendation_names_an_architecture(
    said: Needs, backend: str, broker: str, name: str, cost: tuple[int, int], persistence: str
) -> None:
    found = recommend(said)
    assert (found.backend, found.broker) == (backend, broker)
    assert found.architecture is not None
    assert (found.architecture.name, found.architecture.cost) == (name, cost)
    assert found.architecture.persistence == persistence


@pytest.mark.parametrize(
    ("said", "broker"),
    [
        (needs(tasks_per_day=100_000), "redis"),
        (needs(tasks_per_day=100_001), "rabbitmq"),
        (needs(may_lose=MayLose.NOTHING), "rabbitmq"),
        (needs(may_lose=MayLose.TASKS), "redis"),
        (needs(routing=True), "rabbitmq"),
        (needs(Runs.RABBITMQ), "rabbitmq"),
        (needs(Runs.RABBITMQ, Runs.REDIS), "redis"),
        (needs(), "redis"),
    ],
)
def test_rabbitmq_is_recommended_for_many_tasks_or_routing(said: Needs, broker: str) -> None:
    assert recommend(said).broker == broker


def test_every_recommendation_has_a_measured_or_estimated_reason() -> None:
    choices = itertools.product(
        (None, 1_000, 10**8), (None, *Keep), (None, *Readers), (None, *Runs), (None, *MayLose), (False, True)
    )
    for tasks, keep, readers, runs, may_lose, routing in choices:
        found = recommend(Needs(tasks, keep, readers, frozenset({runs} if runs else ()), may_lose, routing))
        for reason in (found.backend_reason, found.broker_reason):
            assert reason.text
            assert ("We measured" in reason.evidence) == reason.is_measured
            assert reason.is_measured or "estimate" in reason.evidence
        assert {each.name for each in found.variables} <= set(reading.names())


def test_million_tasks_a_day_do_not_change_the_backend() -> None:
    assert recommend(needs(tasks_per_day=1_000_000, keep=Keep.MONTHS)).backend == "postgres"


def test_figures_are_those_of_the_benchmarks() -> None:
    results = (ROOT / "benchmarks/RESULTS.md").read_text(encoding="utf-8")
    shipped = figures.FILE.read_text(encoding="utf-8")
    assert shipped == figures.written(results), (
        "run: python -m rootcellar.onboarding.recommend.figures benchmarks/RESULTS.md"
    )
    figure = figures.figure("store, one process", "rootcellar PostgreSQL")
    assert f"| store, one process ({figure.unit}) | {figure.value} " in results
    assert figure.value in recommend(needs(Runs.POSTGRES)).backend_reason.evidence


def test_text_has_only_measured_figures() -> None:
    with pytest.raises(KeyError):
        figures.figure("store, one process", "rootcellar MySQL")
    assert not recommend(needs(Runs.MYSQL)).backend_reason.is_measured


def test_every_answer_is_explained_once() -> None:
    answers = {answer for question in QUESTIONS for answer in question.answers or ()}
    assert answers == set(MEANINGS)
    assert len(set(MEANINGS.values())) == len(MEANINGS)


def test_variables_follow_the_needs() -> None:
    found = recommend(
        needs(Runs.PGBOUNCER, keep=Keep.FOREVER, readers=Readers.PEOPLE, may_lose=MayLose.NOTHING)
    ).as_json()["variables"]
    assert found["CELERY_RESULT_EXPIRES"] == "never"
    assert found["CELERY_RESULT_EXTENDED"] == found["CELERY_TASK_ACKS_LATE"] == "true"
    assert (found["DB_PORT"], found["DB_LISTEN_PORT"]) == ("6432", "5432")
    sentinels = recommend(needs(Runs.SENTINEL)).setup
    assert sentinels.redis is RedisForm.SENTINEL
    assert "REDIS_SENTINEL_MASTER" in {each.name for each in sentinels.variables()}


@pytest.mark.parametrize(
    ("setup", "words"),
    [
        ({"backend": "rpc"}, "messages of RabbitMQ"),
        ({"backend": "pg"}, "no backend pg"),
        ({"broker": "sqs"}, "no broker sqs"),
        ({"backend": "redis", "pgbouncer": True}, "PgBouncer"),
        ({"broker": "rabbitmq", "redis": RedisForm.SENTINEL}, "nor the backend uses Redis"),
        ({"backend": "postgres", "redis": RedisForm.CLUSTER}, "no broker on a Redis Cluster"),
    ],
)
def test_contradictory_needs_are_refused(setup: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as refused:
        Setup(**setup)
    assert refused.value.remedy


def test_negative_number_of_tasks_is_refused() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        Needs(tasks_per_day=-1)


def test_brokers_are_those_of_the_settings() -> None:
    from rootcellar.configuration import choices

    assert set(BROKERS) == set(choices.BROKERS)
