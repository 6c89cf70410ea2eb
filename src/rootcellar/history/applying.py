"""Applies changed rules of retention to results that are stored already, batch by batch.

It can be interrupted after any batch and run again: a result whose expiry is right is not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from rootcellar.errors import AbilityMissing, ConfigurationError
from rootcellar.payloads.blobs import size_of_result
from rootcellar.records import NO_DATE, TaskRecord
from rootcellar.retention.policy import (
    CALL,
    FAILURES,
    NOT_GIVEN,
    RESULTS,
    TASK,
    Facts,
    Given,
    NotGiven,
    Retention,
    by_task,
    level_of,
)
from rootcellar.stores import Store
from rootcellar.stores.expiring import NewExpiry, Postponable
from rootcellar.stores.search import Dated, Position, Search, Searchable, Segment

#: how many results one statement reads and one transaction changes
BATCH = 1_000
#: how many examples are kept
EXAMPLES = 5
#: seconds after which the server gives up one statement
_TIMEOUT = 60.0


@dataclass(slots=True)
class Applied:
    """What was changed, or would be.

    Attributes:
        seen: how many results were looked at.
        longer: how many are kept for longer than before.
        shorter: how many are kept for a shorter time; ``due`` of them may be deleted by the next cleanup.
        by_owner: how many were left alone, because a call or a running task said how long they are kept.
        by_task: how many were left alone, because their task said it, and no app says what it says now.
        for_ever: how many were left alone because they are kept for ever, and the rules say a shorter time.
        stored_again: how many were stored by a worker after they were read, and so have the right expiry.
        examples: a few changes.
    """

    seen: int = 0
    longer: int = 0
    shorter: int = 0
    due: int = 0
    by_owner: int = 0
    by_task: int = 0
    for_ever: int = 0
    stored_again: int = 0
    examples: list[NewExpiry] = field(default_factory=list)

    @property
    def changed(self) -> int:
        """How many results have another expiry now."""
        return self.longer + self.shorter - self.stored_again


class Applying:
    """Sets the expiry of finished results to what the rules say now.

    These stay as they are: a result whose call, or whose running task, said how long it is kept; one that is kept for
    ever, unless ``with_for_ever``, because the store does not show who said so; and without an app, one whose task
    said it. A task that has not ended gets its expiry at its end.

    Args:
        store: the store.
        retention: the rules and settings.
        tasks: the tasks of an app by name; ``None`` if there is no app.
        knows_settings: whether ``result_expires`` and ``result_failure_expires`` are known. If not, only results that a
            rule matches are changed.
        with_for_ever: whether results that are kept for ever are changed, too.

    Raises:
        AbilityMissing: the store cannot change when results expire.
    """

    def __init__(
        self,
        store: Store,
        retention: Retention,
        *,
        tasks: Callable[[str], Any] | None = None,
        knows_settings: bool = True,
        with_for_ever: bool = False,
    ) -> None:
        postponable, searchable = store.ability(Postponable), store.ability(Searchable)
        if postponable is None or searchable is None:
            raise AbilityMissing(
                "this store cannot apply changed rules to stored results: its server deletes each result at the time "
                "that was set when it was stored",
                where=store.where,
                remedy="new results follow the rules as soon as workers have been restarted; delete stored ones with "
                "`rootcellar forget`, or keep results that must follow later rules in PostgreSQL, MySQL or SQLite",
            )
        self._postponable, self._searchable = postponable, searchable
        self._retention = retention
        self._tasks = tasks
        self._knows_settings = knows_settings
        self._with_for_ever = with_for_ever
        self._with_values = any(rule.larger_than is not None for rule in retention.rules)
        self.applied = Applied()

    def run(self, *, dry_run: bool = False, on_progress: Callable[[int], object] = lambda count: None) -> Applied:
        """Change every stored result whose expiry is not what the rules say; return what was done.

        Args:
            dry_run: only count.
            on_progress: is called after each batch, with the number of results that it looked at.

        Raises:
            StoreError: the store cannot be used. What was changed stays changed.
        """
        self.applied = Applied()
        now = datetime.now(timezone.utc)
        for records in self._batches(now):
            changes = [change for record in records if (change := self._change(record, now)) is not None]
            if changes and not dry_run:
                self.applied.stored_again += len(changes) - self._postponable.set_expiries(changes)
            on_progress(len(records))
        return self.applied

    def _batches(self, now: datetime) -> Iterator[Sequence[TaskRecord]]:
        """Yield all results that were finished before ``now``, those of the live table first."""
        segments = [Segment.FINISHED, *([Segment.OLDER] if self._searchable.has_older() else [])]
        for segment in segments:
            yield from self._batches_of(segment, now)

    def _batches_of(self, segment: Segment, now: datetime) -> Iterator[Sequence[TaskRecord]]:
        """Yield the results of one segment, the most recent first. A row that moves may be seen twice."""
        after: Position | None = None
        while True:
            found = self._searchable.search(
                Search(
                    segment=segment,
                    condition=Dated("date_done", None, now),
                    after=after,
                    limit=BATCH,
                    timeout=_TIMEOUT,
                    with_values=self._with_values,
                )
            )
            if found:
                yield [one.record for one in found]
                after = found[-1].position
            if len(found) < BATCH:
                return

    def _change(self, record: TaskRecord, now: datetime) -> NewExpiry | None:
        """Return another expiry for a result and count it; ``None`` if it stays as it is."""
        applied = self.applied
        applied.seen += 1
        if record.done_at is None or record.done_at == NO_DATE or record.damage:
            return None
        level = level_of(record)
        if level == CALL:
            applied.by_owner += 1
            return None
        expires_at = self._expiry(record, record.done_at, is_by_task=level == TASK)
        if expires_at is NOT_GIVEN or expires_at == record.expires_at:
            return None
        if record.expires_at is None and not self._with_for_ever:
            applied.for_ever += 1
            return None
        if expires_at is None or (record.expires_at is not None and expires_at > record.expires_at):
            applied.longer += 1
        else:
            applied.shorter += 1
            applied.due += expires_at < now
        change = NewExpiry(record, expires_at)
        if len(applied.examples) < EXAMPLES:
            applied.examples.append(change)
        return change

    def _expiry(self, record: TaskRecord, done_at: datetime, *, is_by_task: bool) -> datetime | NotGiven | None:
        """Return when the rules say that a result may be deleted; :data:`NOT_GIVEN` if that is not known."""
        task = self._tasks(record.name) if self._tasks is not None and record.name else None
        if is_by_task and task is None:
            self.applied.by_task += 1
            return NOT_GIVEN
        size = size_of_result(record.result) if record.result is not None else 0
        facts = Facts(state=record.state, name=record.name, queue=record.queue, size=size, by_task=_said_by(task))
        decision = self._retention.decide(facts)
        if not self._knows_settings and decision.level in (FAILURES, RESULTS):
            return NOT_GIVEN
        return None if decision.delta is None else done_at + decision.delta


def _said_by(task: Any) -> Given:
    """Return what a task's attribute says; a wrong one says nothing, as in a worker."""
    try:
        return by_task(task)
    except ConfigurationError:
        return NOT_GIVEN
