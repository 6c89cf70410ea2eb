"""The demo's Celery app. The environment says which servers it uses, so that no password is on a command line."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from celery import Celery
from kombu.entity import Exchange, Queue

#: the environment variables that this app reads: two URLs, and the name of its queue
BROKER = "ROOTCELLAR_DEMO_BROKER"
BACKEND = "ROOTCELLAR_DEMO_BACKEND"
QUEUE = "ROOTCELLAR_DEMO_QUEUE"

#: Celery takes these over any configuration; they name the servers of a real app, which are not the demo's
_OVERRIDES = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL", "CELERY_RESULT_BACKEND")

#: how often the in-process broker looks for messages, in seconds
_POLLING_INTERVAL = 0.01

app = Celery("rootcellar-demo", include=["rootcellar.demo.tasks"])


def configure(environ: MutableMapping[str, str]) -> None:
    """Point the app at the servers that ``environ`` names, and drop from it what would point it elsewhere."""
    for name in _OVERRIDES:
        environ.pop(name, None)
    broker, queue = environ.get(BROKER, "memory://"), environ.get(QUEUE, "rootcellar-demo")
    app.conf.update(
        broker_url=broker,
        broker_connection_retry_on_startup=False,
        broker_connection_timeout=5,
        broker_transport_options={"polling_interval": _POLLING_INTERVAL} if broker.startswith("memory:") else {},
        result_backend=environ.get(BACKEND, "rootcellar+sqlite:///rootcellar-demo.sqlite3"),
        result_extended=True,
        # a queue and a control channel of its own: no other app's worker takes its tasks, or obeys its commands
        task_queues=[Queue(queue, Exchange(queue, type="direct", auto_delete=True), routing_key=queue)],
        task_default_queue=queue,
        control_exchange=f"{queue}.control",
        # long tasks must not make short ones wait behind them
        worker_prefetch_multiplier=1,
    )


configure(os.environ)
