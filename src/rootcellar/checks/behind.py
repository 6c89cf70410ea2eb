"""Checks a hybrid in write-behind mode. Its two stores have checks of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from uuid import uuid4

from rootcellar import errors
from rootcellar.checks.findings import Finding
from rootcellar.checks.steps import Checks, Step, passed, problem
from rootcellar.checks.target import Target
from rootcellar.checks.trial import PREFIX, TRIAL_LIFETIME
from rootcellar.records import Payload, TaskRecord
from rootcellar.stores.base import HasSchema
from rootcellar.stores.hybrid import WriteBehindStore

#: a warning is given if a result waits longer than this in Redis
MAX_LAG_SECONDS = 60.0
#: the time in which a test result must be moved to the durable store
MOVE_TIMEOUT_SECONDS = 5.0


class BehindChecks(Checks):
    """Checks that Redis keeps what it acknowledges, and that results are moved to the durable store."""

    def __init__(self, target: Target) -> None:
        self._store = WriteBehindStore(target.url, target.options)
        self._task_id = f"{PREFIX}{uuid4().hex[:12]}"
        self._is_stored = False

    @property
    def where(self) -> str:
        return self._store.where

    def steps(self) -> Sequence[Step]:
        return [
            Step("journal", self._journal, stops_on_failure=True),
            Step("crash", self._crash),
            Step("lag", self._lag),
            Step("moving", self._moving),
        ]

    def close(self) -> None:
        if self._is_stored:
            with suppress(errors.RootcellarError):
                self._store.delete([self._task_id])
                # moves the deletion, too
                self._store.drain()
        self._store.close()

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
            yield problem("hybrid-lag", f"{lag.waiting:,} wait, the oldest for {lag.oldest:.0f} s")
        elif lag.refused:
            yield problem("hybrid-refused", f"{lag.refused:,} stay in Redis")
        else:
            yield passed(f"{lag.waiting:,} wait, the oldest for {lag.oldest:.1f} s" if lag.waiting else "nothing waits")

    def _moving(self) -> Iterator[Finding]:
        durable = self._store.durable
        if isinstance(durable, HasSchema) and durable.schema.status().version == 0:
            yield passed("not tried, before there are tables")
            return
        now = datetime.now(timezone.utc)
        record = TaskRecord(
            task_id=self._task_id,
            state="SUCCESS",
            result=Payload(b'"moved"'),
            done_at=now,
            expires_at=now + TRIAL_LIFETIME,
        )
        self._is_stored = True
        self._store.put(record)
        deadline = time.monotonic() + MOVE_TIMEOUT_SECONDS
        while (moved := durable.get(self._task_id)) is None and time.monotonic() < deadline:
            # other drainers may move it at the same moment
            if not self._store.drain():
                time.sleep(0.02)
        if moved is None:
            yield problem("hybrid-lag", f"a result was not moved within {MOVE_TIMEOUT_SECONDS:g} s")
        elif moved != record or self._store.get(self._task_id) != record:
            yield problem("round-trip-changed", "what was stored does not come back")
        else:
            yield passed("a result is in Redis first, and was moved")
