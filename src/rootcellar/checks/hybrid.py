"""Checks a hybrid. Its two stores have checks of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from uuid import uuid4

from rootcellar import errors
from rootcellar.checks.behind import BehindChecks
from rootcellar.checks.findings import Finding
from rootcellar.checks.steps import Checks, Step, passed, problem
from rootcellar.checks.target import Target
from rootcellar.checks.trial import PREFIX, TRIAL_LIFETIME
from rootcellar.records import Payload, TaskRecord
from rootcellar.stores.base import HasSchema
from rootcellar.stores.hybrid import HybridStore
from rootcellar.stores.hybrid.settings import WRITE_THROUGH, read_settings


class HybridChecks(Checks):
    """Checks that the two stores work together."""

    def __init__(self, target: Target) -> None:
        self._store = HybridStore(target.url, target.options)
        self._task_id = f"{PREFIX}{uuid4().hex[:12]}"
        self._is_stored = False

    @property
    def where(self) -> str:
        return self._store.where

    def steps(self) -> Sequence[Step]:
        return [Step("copies", self._copies)]

    def close(self) -> None:
        if self._is_stored:
            with suppress(errors.RootcellarError):
                self._store.delete([self._task_id])
            with suppress(errors.RootcellarError):
                # the deletion leaves a tombstone in the cache, which is not needed here
                self._store.cache.drop([self._task_id])
        self._store.close()

    def _copies(self) -> Iterator[Finding]:
        durable = self._store.durable
        if isinstance(durable, HasSchema) and durable.schema.status().version == 0:
            yield passed("not tried, before there are tables")
            return
        now = datetime.now(timezone.utc)
        record = TaskRecord(
            task_id=self._task_id,
            state="SUCCESS",
            result=Payload(b'"copied"'),
            done_at=now,
            expires_at=now + TRIAL_LIFETIME,
        )
        self._is_stored = True
        self._store.put(record)
        found = self._store.get(self._task_id)
        copies, _ = self._store.cache.get([self._task_id])
        if found is None or found.result != record.result:
            yield problem("round-trip-changed", "what was stored does not come back")
        elif self._task_id not in copies:
            yield problem("hybrid-cache-down", "a result was stored, and the cache has no copy of it")
        else:
            yield passed("a result is in both, and read from the cache")


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
    return HybridChecks(target) if holds_copies(target) else BehindChecks(target)
