"""RPC: results are messages of RabbitMQ."""

from __future__ import annotations

from rootcellar.descriptions.description import Advice, BackendDescription, Project, Variable

RPC = BackendDescription(
    name="rpc",
    title="messages of RabbitMQ",
    schemes=("rpc", "rootcellar-rpc"),
    keeps_results=False,
    broker="rabbitmq",
    broker_reason="results are messages of RabbitMQ",
    url="rootcellar.configuration.urls:rpc",
    settings="rootcellar.configuration.celery_settings:rpc_settings",
    contradictions="rootcellar.configuration.checks:of_rpc",
    when_chosen="rootcellar.rpc:warn_at_worker_start",
    checks="rootcellar.checks.rpc",
    findings="rootcellar.checks.register.broker",
    page="docs/rpc.md",
    advice=Advice(
        cautions=(
            "With rpc there are no chords and no history; only the process that sent a task can read its result.",
        ),
    ),
    project=Project(
        kept="nowhere: they come back as messages, once, to the process that sent the task",
        variables=(Variable("CELERY_RESULT_PERSISTENT", "true", "results survive a restart of the broker"),),
        note="Only the process that sent a task can read its result, once. There are no chords and no history.",
    ),
)
