"""The demo's Celery app. The environment names its servers, so that no password is on a command line.

If it names no backend for the demo, the demo uses the one of ``rootcellar.settings()``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from typing import Any

from celery import Celery
from kombu.entity import Exchange, Queue

import rootcellar
from rootcellar.descriptions import backends
from rootcellar.onboarding.demo import FROM_SETTINGS

#: the environment variables that this app reads: two URLs, and the name of its queue
BROKER = "ROOTCELLAR_DEMO_BROKER"
BACKEND = "ROOTCELLAR_DEMO_BACKEND"
QUEUE = "ROOTCELLAR_DEMO_QUEUE"

#: Celery prefers these to any configuration; if the demo has its own servers, they name others
_BROKER_OVERRIDES = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL")
_BACKEND_OVERRIDE = "CELERY_RESULT_BACKEND"
#: the demo uses only the settings for servers and results; it runs its tasks with its own settings
_BROKER_SETTINGS = ("broker_",)
_BACKEND_SETTINGS = ("result_", *(prefix for backend in backends() for prefix in backend.setting_prefixes))

#: seconds between two polls of the in-process broker
_POLLING_INTERVAL = 0.01

app = Celery("rootcellar-demo", include=["rootcellar.onboarding.demo.tasks"])


def configure(environ: MutableMapping[str, str]) -> None:
    """Set the app's servers from ``environ``, and remove variables from it that name other servers."""
    broker, backend = (
        environ.get(BROKER, "memory://"),
        environ.get(BACKEND, "rootcellar+sqlite:///rootcellar-demo.sqlite3"),
    )
    queue = environ.get(QUEUE, "rootcellar-demo")
    found = rootcellar.settings(broker=broker == FROM_SETTINGS) if FROM_SETTINGS in (broker, backend) else {}
    app.conf.update(_servers(environ, broker, backend, found))
    app.conf.update(
        broker_connection_retry_on_startup=False,
        broker_connection_timeout=5,
        result_extended=True,
        # its own queue and control channel, so that no other app's worker gets its tasks or commands
        task_queues=[Queue(queue, Exchange(queue, type="direct", auto_delete=True), routing_key=queue)],
        task_default_queue=queue,
        control_exchange=f"{queue}.control",
        # a short task must not wait behind a long one
        worker_prefetch_multiplier=1,
    )


def _servers(environ: MutableMapping[str, str], broker: str, backend: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of broker and backend."""
    conf: dict[str, Any] = {}
    if backend == FROM_SETTINGS:
        conf.update({name: value for name, value in found.items() if name.startswith(_BACKEND_SETTINGS)})
    else:
        environ.pop(_BACKEND_OVERRIDE, None)
        conf["result_backend"] = backend
    if broker == FROM_SETTINGS:
        conf.update({name: value for name, value in found.items() if name.startswith(_BROKER_SETTINGS)})
    else:
        for name in _BROKER_OVERRIDES:
            environ.pop(name, None)
        in_process = {"polling_interval": _POLLING_INTERVAL} if broker.startswith("memory:") else {}
        conf.update(broker_url=broker, broker_transport_options=in_process)
    return conf


# the message is for the worker's process; in the client, the demo prints it later
if BACKEND in os.environ:
    configure(os.environ)
