"""``rootcellar.instrument(app)``: counts what the processes of an application do with the store of its results."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from billiard import current_process, get_start_method
from celery import signals
from celery.utils.log import get_logger

from rootcellar.backend.lifecycle import has_backend
from rootcellar.backend.observing import observe, observer_of
from rootcellar.errors import ConfigurationError
from rootcellar.metrics import catalogue, cells
from rootcellar.metrics.families import Family, as_prometheus, build_info, check_installed
from rootcellar.metrics.observers import BackendObserver
from rootcellar.metrics.recorder import WIDTH, Recorder
from rootcellar.metrics.server import MetricsServer, parse_address
from rootcellar.stores.pool import report_waits
from rootcellar.support.gates import Gate
from rootcellar.support.threads import start_thread
from rootcellar.text.escaping import visible_logs

logger = visible_logs(get_logger(__name__))

WHERE = "rootcellar.instrument"
#: where a worker serves its metrics, by default
LISTEN = "127.0.0.1:9871"
#: seconds between two looks at the figures of this moment in a child of a worker's pool
SAMPLE_SECONDS = 1.0
#: the environment variable with the file that the children of a pool share, if they are new programs
_FILE = "ROOTCELLAR_METRICS_FILE"


def instrument(app: Any, *, listen: str | None = LISTEN) -> Instruments:
    """Count what the processes of ``app`` do with the store of its results, and serve it in its workers.

    Call it where the app is made, before a result is stored or read. A worker serves ``http://LISTEN/metrics``, which
    has the sums of all processes of its pool. Another program serves nothing by itself: register the returned object
    in its own registry of prometheus_client.

    Args:
        app: the Celery app, or a proxy of it. Its result backend must be one of rootcellar with a store.
        listen: where a worker serves, as ``HOST:PORT``; ``None`` for nowhere. Each worker on a machine needs a port of
            its own.

    Returns:
        a collector for prometheus_client.

    Raises:
        ConfigurationError: ``listen`` is not an address, or the backend of the app was used before.
        DriverMissing: prometheus_client is not installed.
    """
    check_installed(WHERE)
    if hasattr(app, "_get_current_object"):
        # such as celery.current_app; a proxy is not the app of a backend, nor of a worker
        app = app._get_current_object()
    address = None if listen is None else parse_address(listen, WHERE)
    if observer_of(app) is not None:
        raise ConfigurationError(
            f"the app {app.main!r} is instrumented already", where=WHERE, remedy="call it once, where the app is made"
        )
    if has_backend(app):
        raise ConfigurationError(
            "the result backend was used before, and cannot be observed any more",
            where=WHERE,
            remedy="call it directly after the configuration of the app",
        )
    made = Instruments(app, address)
    made.connect()
    return made


class Instruments:
    """What is counted of an app. A collector for prometheus_client: ``REGISTRY.register(instruments)``.

    Args:
        app: the app.
        address: where a worker serves.
    """

    def __init__(self, app: Any, address: tuple[str, int] | None) -> None:
        self._app = app
        self._address = address
        self._recorder = Recorder()
        self._server: MetricsServer | None = None

    def connect(self) -> None:
        """Observe the app's backends, and begin to count when a worker starts."""
        observe(self._app, BackendObserver(self._recorder))
        report_waits(self._recorder.waited)
        signals.worker_init.connect(self._on_worker, weak=False)
        signals.worker_process_init.connect(self._on_child, weak=False)
        signals.worker_ready.connect(self._on_ready, weak=False)
        signals.worker_shutdown.connect(self._on_shutdown, weak=False)

    def collect(self) -> Iterator[Any]:
        """Yield the metrics of this process, as those of prometheus_client; in a worker those of its whole pool."""
        return map(as_prometheus, self.families())

    def describe(self) -> Iterator[Any]:
        """Yield the metrics without values, for the registration."""
        return (as_prometheus(Family(metric)) for metric in catalogue.OF_A_PROCESS)

    def families(self) -> Iterator[Family]:
        """Yield the metrics of this process; in a worker's main process those of its whole pool."""
        yield from self._recorder.families()
        yield build_info(self._app.conf.result_backend)

    # -- signals of Celery

    def _on_worker(self, sender: Any = None, **_: Any) -> None:
        """Prepare the memory that the main process shares with the children of its pool."""
        if sender.app is not self._app or self._recorder.is_shared:
            return
        if _forks(sender):
            self._recorder.share(cells.anonymous(WIDTH))
            return
        try:
            rows, path = cells.in_new_file(WIDTH)
        except OSError as exc:
            logger.error("The metrics of the pool's children are not counted: %s", exc)
            return
        atexit.register(_remove, path, os.getpid())
        os.environ[_FILE] = str(path)
        self._recorder.share(rows)

    def _on_child(self, **_: Any) -> None:
        """Count in the row of this child's place in the pool."""
        place = getattr(current_process(), "index", None)
        if place is None:
            # the pool of a solo worker is its main process
            return
        if self._server is not None:
            # a child that outlives its worker must not keep the port
            self._server.socket.close()
        if not self._recorder.is_shared and (path := os.environ.get(_FILE)):
            # this child is a new program
            self._recorder.attach(cells.in_file(Path(path), WIDTH))
        if not self._recorder.is_shared:
            # the worker has another app
            return
        if not self._recorder.join(place + 1):
            logger.warning("The metrics of this process are not counted: it is number %d of its pool.", place + 1)
            return
        start_thread(self._sample, "rootcellar-metrics")

    def _sample(self) -> None:
        never = Gate()
        is_reported = False
        while True:
            try:
                self._recorder.sample()
            except Exception as exc:  # the next look may succeed, and without this thread the last figures would stay
                if not is_reported:
                    is_reported = True
                    logger.warning("Figures of this process are old (logged once): %s", exc, exc_info=True)
            never.wait(SAMPLE_SECONDS)

    def _on_ready(self, sender: Any = None, **_: Any) -> None:
        """Serve, from the main process only."""
        if self._address is None or sender.app is not self._app:
            return
        try:
            self._server = MetricsServer(self._address, self.families, WHERE)
        except ConfigurationError as exc:
            # a worker without metrics is better than none
            logger.error("%s", exc)
            return
        self._server.start()
        logger.info("Metrics are served at %s", self._server.url)

    def _on_shutdown(self, sender: Any = None, **_: Any) -> None:
        server = self._server
        if server is None or sender.app is not self._app:
            return
        self._server = None
        server.shutdown()
        server.server_close()


def _forks(worker: Any) -> bool:
    """Return whether the children of a worker's pool are forked, and not new programs."""
    # without a choice, billiard does not fork on macOS; asking it without allow_none would make a choice
    chosen = get_start_method(allow_none=True) or ("spawn" if sys.platform == "darwin" else "fork")
    # Celery before 5.7 leaves the choice to billiard
    return bool(chosen == "fork" == getattr(worker, "pool_start_method", "fork"))


def _remove(path: Path, pid: int) -> None:
    """Delete the shared file, at the end of the process that made it."""
    if os.getpid() == pid:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
