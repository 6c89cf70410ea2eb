"""``rootcellar check broker``: checks a Redis that is the broker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from kombu.exceptions import OperationalError

from rootcellar import errors
from rootcellar.checks import redis_server
from rootcellar.checks.broker_round_trip import RoundTrip
from rootcellar.checks.findings import Finding
from rootcellar.checks.redis import RedisChecks
from rootcellar.checks.steps import Step, passed, problem, problem_as
from rootcellar.checks.target import Target
from rootcellar.stores.redis import driver

#: kombu's default visibility timeout in seconds
VISIBILITY_TIMEOUT = 3_600.0


class RedisBrokerChecks(RedisChecks):
    """Checks a Redis that is the broker. The connection is checked as for a result store, the rest is different."""

    def __init__(self, target: Target) -> None:
        conf = target.conf
        options = dict(conf.get("broker_transport_options") or {})
        changes = {"redis_backend_use_ssl": conf.get("broker_use_ssl"), "result_backend_transport_options": options}
        url = str(conf["broker_url"])
        super().__init__(target.elsewhere(url, **{key: value for key, value in changes.items() if value}))
        self._conf: Mapping[str, Any] = conf
        self._round_trip = RoundTrip(target)
        self._broker: Any = None

    def steps(self) -> Sequence[Step]:
        before = [step for step in super().steps() if step.name not in _OF_RESULTS]
        return [
            *before,
            Step("round trip", self._send_and_receive, stops_on_failure=True),
            Step("visibility", self._visibility),
        ]

    def close(self) -> None:
        if self._broker is not None:
            with suppress(Exception):
                self._broker.release()
        super().close()

    def understand(self, exc: Exception) -> errors.RootcellarError | None:
        cause = exc.__cause__ if isinstance(exc, OperationalError) and isinstance(exc.__cause__, Exception) else exc
        if "no permissions" in str(cause):
            # redis-py removes NOPERM, the server's code, from the message
            return errors.PermissionDenied(str(cause), where=self.where)
        return super().understand(cause)

    def _eviction(self) -> Iterator[Finding]:
        yield redis_server.judge_eviction(self._info, "broker-eviction", "redis-eviction-later")

    def _memory(self) -> Iterator[Finding]:
        yield redis_server.judge_memory(self._info, "broker-memory", "redis-memory-full")

    def _persistence(self) -> Iterator[Finding]:
        finding = redis_server.judge_persistence(self._link, self._info)
        yield problem_as("broker-persistence", finding) if finding.code == "redis-persistence" else finding

    def _send_and_receive(self) -> Iterator[Finding]:
        try:
            self._broker = self._round_trip.connect()
            yield from self._round_trip.send_and_receive(self._broker)
        except (*driver.FAILURES, OperationalError) as exc:
            error = self.understand(exc) or errors.StoreUnavailable(str(exc), where=self.where)
            if not isinstance(error, errors.PermissionDenied):
                raise error from exc
            yield problem("broker-no-rights", error.what)

    def _visibility(self) -> Iterator[Finding]:
        given = (self._conf.get("broker_transport_options") or {}).get("visibility_timeout")
        seconds = float(given or VISIBILITY_TIMEOUT)
        longest = self._conf.get("task_time_limit")
        if self._conf.get("task_acks_late") and (longest is None or float(longest) >= seconds):
            limit = "no time limit" if longest is None else f"a time limit of {float(longest):g} s"
            seen = f"visibility timeout {seconds:g} s, acks_late, and {limit} for tasks"
            yield problem("broker-visibility-timeout", seen)
        else:
            yield passed(f"a task that is not acknowledged goes to another worker after {seconds:g} s")


#: steps of a result store that do not apply to a broker
_OF_RESULTS = ("rights", "clock", "connections", "sticky success", "notification", "expiry", "latency", "round trip")
