"""Starts and stops all background services of a process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from celery.utils.log import get_logger

from rootcellar.errors import ConfigurationError
from rootcellar.maintenance.service import STOP_TIMEOUT, Leader, Service
from rootcellar.text.escaping import visible_logs

logger = visible_logs(get_logger(__name__))


class Runner:
    """The services of one process.

    Args:
        services: the services, in the order of their start; they are stopped in the opposite order.
        leader_of: returns the leader of a service, by the name of the service. Needed if a service may run in only one
            process.

    Raises:
        ConfigurationError: a service may run in only one process, and ``leader_of`` is missing.
    """

    def __init__(self, services: Sequence[Service], leader_of: Callable[[str], Leader] | None = None) -> None:
        self.services = tuple(services)
        for service in self.services:
            if not service.is_single:
                continue
            if leader_of is None:
                raise ConfigurationError(
                    f"only one process may do the {service.name}, and nothing chooses this process",
                    where=service.name,
                    remedy="give the runner a leader for each service",
                )
            service.leader = leader_of(service.name)

    def start(self) -> None:
        """Start all services that are not running."""
        for service in self.services:
            service.start()

    def stop(self, timeout: float = STOP_TIMEOUT) -> bool:
        """Stop all services. After this has returned ``True``, none of them runs. May be called again.

        Args:
            timeout: the most seconds to wait for all runs that have begun.

        Returns:
            whether all threads have ended. A warning names the services whose threads have not.
        """
        deadline = time.monotonic() + timeout
        last_first = self.services[::-1]
        for service in last_first:
            service.ask_to_stop()
        late = [service.name for service in last_first if not service.stop(max(0.0, deadline - time.monotonic()))]
        if late:
            logger.warning("Not ended within %g s: %s. They end after their current run.", timeout, ", ".join(late))
        return not late
