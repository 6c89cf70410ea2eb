"""Checks a hybrid, in each of its two modes. Its two stores have checks of their own."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from typing import Generic, TypeVar
from uuid import uuid4

from rootcellar import errors
from rootcellar.checks.findings import Finding
from rootcellar.checks.steps import Checks, Step, passed, problem
from rootcellar.checks.target import Target
from rootcellar.checks.trial import PREFIX, TRIAL_LIFETIME
from rootcellar.records import Payload, TaskRecord
from rootcellar.stores.base import HasSchema
from rootcellar.stores.hybrid import HybridStore, WriteBehindStore
from rootcellar.stores.hybrid.forwarding import ForwardingStore
from rootcellar.stores.hybrid.settings import WRITE_THROUGH, read_settings

#: a warning is given if a result waits longer than this in Redis
MAX_LAG_SECONDS = 60.0
#: the time in which a test result must be moved to the durable store
MOVE_TIMEOUT_SECONDS = 5.0

_Hybrid = TypeVar("_Hybrid", bound=ForwardingStore)


class _HybridChecks(Checks, Generic[_Hybrid]):
    """Stores one test result in both stores of a hybrid, and deletes it at the end."""

    def __init__(self, store: _Hybrid) -> None:
        self._store = store
        self._task_id = f"{PREFIX}{uuid4().hex[:12]}"
        self._is_stored = False

    @property
    def where(self) -> str:
        return self._store.where

    def close(self) -> None:
        if self._is_stored:
            with suppress(errors.RootcellarError):
                self._store.delete([self._task_id])
                self._complete_deletion()
        self._store.close()

    @abstractmethod
    def _complete_deletion(self) -> None:
        """Remove what is left of the test result after it was deleted."""

    def _try_both(self) -> Iterator[Finding]:
        """Store a test result, if the durable store has tables, and yield what :meth:`_judge` finds."""
        durable = self._store.durable
        tables = durable.ability(HasSchema)
        if tables is not None and tables.schema.status().version == 0:
            yield passed("not tried, before there are tables")
            return
        now = datetime.now(timezone.utc)
        record = TaskRecord(
            task_id=self._task_id,
            state="SUCCESS",
            result=Payload(b'"checked"'),
            done_at=now,
            expires_at=now + TRIAL_LIFETIME,
        )
        self._is_stored = True
        self._store.put(record)
        yield self._judge(record)

    @abstractmethod
    def _judge(self, record: TaskRecord) -> Finding:
        """Return whether the stored test result is where it must be."""


class WriteThroughChecks(_HybridChecks[HybridStore]):
    """Checks that a result in the durable store is copied to the cache."""

    def steps(self) -> Sequence[Step]:
        return [Step("copies", self._try_both)]

    def _complete_deletion(self) -> None:
        # the deletion leaves a tombstone in the cache, which is not needed here
        self._store.cache.drop([self._task_id])

    def _judge(self, record: TaskRecord) -> Finding:
        found = self._store.get(self._task_id)
        copies, _ = self._store.cache.get([self._task_id])
        if found is None or found.result != record.result:
            return problem("round-trip-changed", "what was stored does not come back")
        if self._task_id not in copies:
            return problem("hybrid-cache-down", "a result was stored, and the cache has no copy of it")
        return passed("a result is in both, and read from the cache")


class WriteBehindChecks(_HybridChecks[WriteBehindStore]):
    """Checks that Redis keeps what it acknowledges, and that results are moved to the durable store."""

    def steps(self) -> Sequence[Step]:
        return [
            Step("journal", self._journal, stops_on_failure=True),
            Step("crash", self._crash),
            Step("lag", self._lag),
            Step("moving", self._try_both),
        ]

    def _complete_deletion(self) -> None:
        # moves the deletion to the durable store
        self._store.drain()

    def _journal(self) -> Iterator[Finding]:
        try:
            self._store.check_journal()
        except errors.ConfigurationError as exc:
            yield problem("append-only-missing", exc.what, exc.remedy)
        else:
            yield passed("Redis keeps what it acknowledges")

    def _crash(self) -> Iterator[Finding]:
        window = self._store.window()
        yield problem("hybrid-window", window) if window else passed("loses nothing that was acknowledged")

    def _lag(self) -> Iterator[Finding]:
        lag = self._store.lag()
        if lag.oldest > MAX_LAG_SECONDS:
            yield problem("hybrid-lag", f"waiting: {lag.waiting:,}, the oldest for {lag.oldest:.0f} s")
        elif lag.refused:
            yield problem("hybrid-refused", f"{lag.refused:,} stay in Redis")
        else:
            yield passed(
                f"waiting: {lag.waiting:,}, the oldest for {lag.oldest:.1f} s" if lag.waiting else "no result waits"
            )

    def _judge(self, record: TaskRecord) -> Finding:
        moved = self._wait_until_moved()
        if moved is None:
            return problem("hybrid-lag", f"a result was not moved within {MOVE_TIMEOUT_SECONDS:g} s")
        if moved != record or self._store.get(self._task_id) != record:
            return problem("round-trip-changed", "what was stored does not come back")
        return passed("a result is in Redis first, and was moved")

    def _wait_until_moved(self) -> TaskRecord | None:
        """Return the test result from the durable store, or ``None`` if it is not there within the timeout."""
        deadline = time.monotonic() + MOVE_TIMEOUT_SECONDS
        while (moved := self._store.durable.get(self._task_id)) is None and time.monotonic() < deadline:
            # other drainers may move it at the same moment
            if not self._store.drain():
                time.sleep(0.02)
        return moved


def parts_of(target: Target) -> tuple[Target, Target]:
    """Return the targets of the durable store and the cache.

    Raises:
        ConfigurationError: the settings of the hybrid cannot be used.
    """
    settings = read_settings(target.url, target.options)
    return target.elsewhere(settings.durable_url), target.elsewhere(settings.cache_url)


def holds_copies(target: Target) -> bool:
    """Return True if the hybrid's cache contains only copies (write-through)."""
    return read_settings(target.url, target.options).mode == WRITE_THROUGH


def checks(target: Target) -> Checks:
    """Return the checks for the hybrid's mode. :mod:`rootcellar.checks.choosing` calls this."""
    if holds_copies(target):
        return WriteThroughChecks(HybridStore(target.url, target.options))
    return WriteBehindChecks(WriteBehindStore(target.url, target.options))
