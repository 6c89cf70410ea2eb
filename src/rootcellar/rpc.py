"""Celery's RPC backend, configured correctly: results are messages to the client that sent the task.

``rootcellar.settings()`` chooses :class:`RPCBackend` for ``CELERY_RESULT_BACKEND=rpc``. It differs from Celery's own
backend: it uses the exchange of the settings, refuses what cannot work with a clear error, and logs the limits of RPC
when a worker starts.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn
from uuid import uuid4

from amqp.exceptions import AccessRefused, ChannelError
from celery import signals, states
from celery.app.task import Context
from celery.backends.rpc import RPCBackend as CelerysBackend
from celery.exceptions import TimeoutError as CelerysTimeout
from celery.result import AsyncResult
from celery.utils.log import get_logger
from kombu.exceptions import OperationalError

from rootcellar.descriptions import names_that_keep_results, one_of
from rootcellar.errors import AbilityMissing, AuthenticationFailed, ConfigurationError, StoreUnavailable
from rootcellar.text.escaping import visible_logs
from rootcellar.urls import redact

logger = visible_logs(get_logger(__name__))

#: the types of exchanges that deliver a result to its client only
EXCHANGE_TYPES = ("direct", "topic")

LIMITS = (
    "results are messages to the process that sent the task: no other process can read them, they cannot be read "
    "later, there is no history, and chords are refused (also a group with a task after it)"
)
_REMEDY = f"choose a backend that keeps results: CELERY_RESULT_BACKEND={one_of(names_that_keep_results())}"


# also a NotImplementedError, which Celery's own RPC backend raises here, for code that catches it
class ChordsRefused(AbilityMissing, NotImplementedError):
    """The result backend cannot count the parts of a chord. Not retryable."""


class RPCBackend(CelerysBackend):  # type: ignore[misc]
    """Celery's RPC backend. Results go through ``result_exchange`` if it is set.

    Without it they go through the broker's default exchange, directly to the client's queue, as in Celery.
    ``result_persistent`` makes them survive a restart of the broker.
    """

    def _create_exchange(self, name: str, type: str = "direct", delivery_mode: int = 2) -> Any:
        if not self.app.conf.value_set_for("result_exchange"):
            return super()._create_exchange(name, type, delivery_mode)
        if type not in EXCHANGE_TYPES:
            raise ConfigurationError(
                f"an exchange of the type {type} does not deliver a result to its client only",
                where="result_exchange_type",
                remedy=f"use {' or '.join(EXCHANGE_TYPES)}",
            )
        return self.Exchange(name, type=type, durable=True, delivery_mode=delivery_mode)

    @property
    def binding(self) -> Any:
        """The client's own queue. It survives a restart of the broker, as in Celery since 5.7."""
        queue = super().binding
        queue.durable = True
        return queue

    def on_reply_declare(self, task_id: str) -> list[Any] | None:
        """Return the exchange, so that a worker declares it if it does not exist yet."""
        return [self.exchange] if self.exchange.name else None

    def ensure_chords_allowed(self) -> None:
        raise ChordsRefused(
            "chords do not work with rpc: their parts are not counted (a group with a task after it is a chord, too)",
            where="rpc://",
            remedy=_REMEDY,
        )

    def save_group(self, group_id: str, result: Any) -> NoReturn:
        raise _cannot("groups cannot be saved")

    def restore_group(self, group_id: str, cache: bool = True) -> NoReturn:
        raise _cannot("groups cannot be restored")

    def delete_group(self, group_id: str) -> NoReturn:
        raise _cannot("there are no saved groups to delete")

    def reload_task_result(self, task_id: str) -> NoReturn:
        raise _cannot("a result comes once and cannot be read again")

    def reload_group_result(self, task_id: str) -> NoReturn:
        raise _cannot("a result comes once and cannot be read again")


def check_round_trip(app: Any, timeout: float = 10.0) -> float:
    """Send a result through the app's broker as a worker does, and receive it as a client does. Needs no worker.

    Args:
        app: an app whose backend is RPC.
        timeout: seconds to wait.

    Returns:
        the seconds that it took.

    Raises:
        ConfigurationError: the app has another backend, or the broker's exchange has another type.
        AuthenticationFailed: the broker refused the user, or the user lacks rights.
        StoreUnavailable: the broker cannot be reached, or the result did not come back.
    """
    if not isinstance(app.backend, CelerysBackend):
        raise ConfigurationError(
            "the app's result backend is not rpc", where="result_backend", remedy="set rootcellar-rpc://"
        )
    where = redact(str(app.conf.broker_write_url))
    began = time.monotonic()
    try:
        # a new thread has its own queue and consumer, so it does not take the results of other threads
        with ThreadPoolExecutor(1) as thread:
            is_same = thread.submit(_send_and_receive, app, timeout).result()
    except CelerysTimeout:
        raise StoreUnavailable(
            f"a result that was sent did not come back within {timeout:g} s", where=where, remedy="see the broker's log"
        ) from None
    except AccessRefused as exc:
        raise AuthenticationFailed(
            redact(str(exc)), where=where, remedy="check the broker's user and password, and what the user may do"
        ) from None
    except ChannelError as exc:
        raise ConfigurationError(
            redact(str(exc)), where="result_exchange", remedy="check the type of the broker's exchange of that name"
        ) from None
    except (OperationalError, OSError) as exc:
        raise StoreUnavailable(
            redact(f"the broker cannot be reached: {exc}"), where=where, remedy="check that it runs"
        ) from None
    if not is_same:
        raise StoreUnavailable("a result came back changed", where=where, remedy="check result_serializer")
    return time.monotonic() - began


def _send_and_receive(app: Any, timeout: float) -> bool:
    """Send a result to this thread's queue, and return whether the same result came back."""
    backend, task_id, sent = app.backend, str(uuid4()), f"rootcellar {uuid4()}"
    # connect first, because publishing would retry for a long time
    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
        backend.binding(connection.default_channel).declare()
    request = Context(id=task_id, reply_to=backend.oid, correlation_id=task_id)
    backend.store_result(task_id, sent, states.SUCCESS, request=request)
    try:
        return bool(AsyncResult(task_id, app=app).get(timeout=timeout) == sent)
    finally:
        # the server deletes the queue when the connection ends
        backend.result_consumer.stop()


def warn_at_worker_start() -> None:
    """Log the limits of RPC when a worker starts. May be called any number of times."""
    signals.worker_ready.connect(_warn, weak=False, dispatch_uid="rootcellar.rpc")


def _warn(sender: Any = None, **_: Any) -> None:
    if isinstance(sender.app.backend, RPCBackend):
        logger.warning("The result backend is rpc: %s. Otherwise %s.", LIMITS, _REMEDY)


def _cannot(problem: str) -> AbilityMissing:
    return AbilityMissing(f"{problem} with rpc", where="rpc://", remedy=_REMEDY)
