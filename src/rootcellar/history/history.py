"""``History``: every question about stored results. Each method calls the module that answers it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone, tzinfo
from functools import cached_property, partial
from types import TracebackType
from typing import Any

from rootcellar.errors import ConfigurationError
from rootcellar.history.comparison import Comparison, compare
from rootcellar.history.counts import CAP, Count, count
from rootcellar.history.failure_details import failure, mark
from rootcellar.history.failure_groups import FailureGroup, Failures
from rootcellar.history.failure_titles import Titles
from rootcellar.history.failures import failures
from rootcellar.history.filters import Clock, Filter, Matcher, parse
from rootcellar.history.filters.moments import LocalZone
from rootcellar.history.lists import Tasks, opened
from rootcellar.history.old_results import OldResults
from rootcellar.history.percentiles import Percentiles, percentiles, slowest
from rootcellar.history.retry import Retry
from rootcellar.history.stats import Stats, stats
from rootcellar.history.stuck import DEFAULT, Limits, StuckTask, looked_up, stuck_tasks
from rootcellar.history.timeline import Timeline, cannot_count, timeline
from rootcellar.history.tree import BUDGET, TaskTree, tree_of
from rootcellar.payloads import Codec
from rootcellar.records import TaskRecord
from rootcellar.stores import Store
from rootcellar.stores.counting import Counted


class History:
    """The stored results of an application. :func:`rootcellar.open_history` opens one.

    Use it as a context manager, or call :meth:`close`. It may be used from any thread.

    Args:
        store: the store.
        codec: decrypts and verifies values.
        zone: the time zone of dates and times in filters; ``None`` for that of this process.
        owns_store: whether closing the history closes the connections of the store.
        conf: Celery's configuration, for the settings of groups of failures; ``None`` for the environment alone.
        open_archive: opens the archive at its first use, or returns ``None`` if the settings name none.

    Attributes:
        store, codec: as they were given.
    """

    def __init__(
        self,
        store: Store,
        codec: Codec,
        *,
        zone: tzinfo | None = None,
        owns_store: bool = True,
        conf: Mapping[str, Any] | None = None,
        open_archive: Callable[[], OldResults | None] | None = None,
    ) -> None:
        self._open_archive = open_archive
        self.store = store
        self.codec = codec
        self._zone = zone or LocalZone()
        self._owns_store = owns_store
        self._titles = Titles(store, codec, conf or {})

    @property
    def clock(self) -> Clock:
        """The present, in the reader's time zone. Each question reads it once."""
        return Clock(datetime.now(timezone.utc), self._zone)

    def __enter__(self) -> History:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections of the store, unless they belong to an app."""
        if self._owns_store:
            self.store.close()

    @cached_property
    def archive(self) -> OldResults | None:
        """The archived results; ``None`` if the settings name no archive.

        Raises:
            ConfigurationError: the place of the archive cannot be used, or the store does not know what is archived.
        """
        return None if self._open_archive is None else self._open_archive()

    def parsed(self, filter: str | Filter, clock: Clock | None = None) -> Filter:
        """Return the tree of a filter, which may be one already.

        Raises:
            FilterWrong: a term cannot be understood.
        """
        return filter if isinstance(filter, Filter) else parse(filter, clock or self.clock)

    def tasks(
        self,
        filter: str | Filter = "",
        *,
        size: int = 50,
        after: str | None = None,
        budget: float | None = None,
        with_values: bool = True,
        archive: bool = False,
    ) -> Tasks:
        """Return the tasks that a filter finds: unfinished ones first, then the most recently finished.

        Args:
            filter: see docs/filters.md.
            size: the most tasks of a page.
            after: the ``cursor`` of an earlier page.
            budget: seconds for a page; ``None`` for 0.3, and for 10 in a store without indexes.
            with_values: whether results, tracebacks, children and stamps are read.
            archive: whether the archived tasks are listed, instead of those in the store.

        Raises:
            FilterWrong: a term of the filter cannot be understood.
            CursorWrong: ``after`` is damaged, or belongs to another filter.
            ConfigurationError: the archive is asked for, and the settings name none.
        """
        clock = self.clock
        if archive:
            if self.archive is None:
                raise ConfigurationError(
                    "no archive is named",
                    where="result_archive",
                    remedy="set result_archive, or ROOTCELLAR_ARCHIVE in the environment: a folder or a URL",
                )
            query = self.parsed(filter, clock)
            return self.archive.tasks(self.codec, query, clock, size=size, after=after, budget=budget)
        return Tasks(
            self.store,
            self.codec,
            self.parsed(filter, clock),
            clock,
            size=size,
            after=after,
            budget=budget,
            with_values=with_values,
        )

    def retry(
        self,
        filter: str | Filter,
        *,
        app: Any,
        queue: str | None = None,
        limit: int | None = None,
        unfinished: bool = False,
        send_unsure: bool = False,
        without_headers: bool = False,
    ) -> Retry:
        """Return a retry of the tasks that a filter finds. Its ``preview()`` shows them, and ``send()`` sends them.

        Args:
            filter: see docs/filters.md.
            app: an app that has the broker; it need not know the tasks.
            queue: the queue to use instead of that of each task.
            limit: the most tasks to send.
            unfinished: whether tasks that have not ended are also sent again, such as those whose worker died.
            send_unsure: whether to send again tasks that an interrupted retry may have sent already. Such a task may
                run twice.
            without_headers: whether to send tasks whose headers, priority and exchange are not stored without them.
                They are stored for tasks that failed, were rejected or revoked.

        Raises:
            FilterWrong: a term of the filter cannot be understood.
            AbilityMissing: the store cannot record a retry.
        """
        clock = self.clock
        return Retry(
            self.store,
            self.codec,
            self.parsed(filter, clock),
            clock,
            app,
            queue=queue,
            limit=limit,
            unfinished=unfinished,
            send_unsure=send_unsure,
            without_headers=without_headers,
        )

    # -- numbers: see docs/statistics.md

    def count(self, filter: str | Filter = "", *, cap: int = CAP) -> Count:
        """Return how many tasks a filter finds; exactly if it names only tasks, queues, states and times.

        Args:
            filter: see docs/filters.md.
            cap: the most tasks that are counted one by one, for other filters.

        Raises:
            FilterWrong: a term of the filter cannot be understood.
        """
        clock = self.clock
        return count(self.store, self.codec, self.parsed(filter, clock), clock, cap)

    def timeline(self, filter: str | Filter = "", *, by: str = "hour") -> Timeline:
        """Return how many tasks ended in each minute, hour or day, and how long they ran and waited.

        Args:
            filter: names only tasks, queues, states and times. Without a begin, it is the last hour by the minute, the
                last day by the hour, and the last 30 days by the day.
            by: ``minute``, ``hour`` or ``day``.

        Raises:
            FilterWrong: a term of the filter cannot be understood.
            ValueError: ``by`` is another text, or there would be too many points.
            AbilityMissing: the store keeps no counts, or the filter names something else.
        """
        clock = self.clock
        return timeline(self.store, self.parsed(filter, clock), clock, by)

    def stats(self, filter: str | Filter = "", *, by_queue: bool = False) -> Stats:
        """Return for each task how many ended in each state, and how long they ran and waited.

        Args:
            filter: names only tasks, queues, states and times.
            by_queue: whether the queues of a task are counted separately.

        Raises:
            FilterWrong: a term of the filter cannot be understood.
            AbilityMissing: the store keeps no counts, or the filter names something else.
        """
        clock = self.clock
        return stats(self.store, self.parsed(filter, clock), clock, by_queue=by_queue)

    def percentiles(self, filter: str | Filter = "", *, of: str = "runtime") -> Percentiles:
        """Return how long finished tasks ran or waited.

        Args:
            filter: names only tasks, queues, states and times.
            of: ``runtime`` or ``wait``.

        Raises:
            FilterWrong: a term of the filter cannot be understood.
            ValueError: ``of`` is another text.
            AbilityMissing: the store keeps no counts, or the filter names something else.
        """
        clock = self.clock
        return percentiles(self.store, self.parsed(filter, clock), clock, of)

    def slowest(self, filter: str | Filter = "", *, limit: int = 10) -> Sequence[TaskRecord]:
        """Return the finished tasks that ran longest, the longest first.

        Raises:
            FilterWrong: a term of the filter cannot be understood.
            ValueError: ``limit`` is not from 1 to 1,000.
            AbilityMissing: the store can neither count nor sort.
        """
        clock = self.clock
        return slowest(self.store, self.codec, self.parsed(filter, clock), clock, limit)

    def recount(self) -> None:
        """Count all results that are stored again, and keep what was counted of deleted ones.

        The counting itself is done by the workers, or by the next questions. Until it is done, they say "at least".

        Raises:
            AbilityMissing: the store keeps no counts.
            PermissionDenied, StoreReadOnly: this user may only read.
            StoreUnavailable: the server cannot be reached, or another process counted results for 10 seconds.
        """
        counted = self.store.ability(Counted)
        if counted is None:
            raise cannot_count(self.store, has_counts=False)
        counted.rebuild_counts()

    def compare(self, a: str | Filter, b: str | Filter) -> Comparison:
        """Return what changed from one filter to another, such as from ``since:48h until:24h`` to ``since:24h``.

        Raises:
            FilterWrong: a term of a filter cannot be understood.
            AbilityMissing: the store keeps no counts, or a filter names more than tasks, queues, states and times.
        """
        clock = self.clock
        return compare(self.store, self.parsed(a, clock), self.parsed(b, clock), clock)

    # -- failures: see docs/failures.md

    def failures(self, filter: str | Filter = "", *, limit: int = 10) -> Failures:
        """Return the groups of failures that a filter finds: new, back and rising first, then the most frequent.

        Args:
            filter: see docs/filters.md. If it names only tasks and times, the counts beside the rows answer; otherwise
                up to 10,000 rows are read.
            limit: the most groups.

        Raises:
            FilterWrong: a term of the filter cannot be understood.
            AbilityMissing: the store has neither counts nor an index, and too many records.
        """
        clock = self.clock
        return failures(self.store, self.codec, self._titles, self.parsed(filter, clock), clock, limit)

    def failure(self, group: str) -> FailureGroup:
        """Return everything about one group of failures: also its messages, its tasks, and what they have in common.

        Args:
            group: its text form, such as ``7K2Q9XMD``.

        Raises:
            FailureUnknown: it is not the text form of a group, or no failure of it is stored.
        """
        return failure(self.store, self.codec, self._titles, group, self.clock)

    def mark(self, group: str, status: str, *, until: datetime | None = None, note: str | None = None) -> None:
        """Mark a group of failures as resolved or muted, or remove its mark.

        A group that fails again after it was resolved is ``back``.

        Args:
            group: its text form, such as ``7K2Q9XMD``.
            status: ``resolved``, ``muted`` or ``open``.
            until: the end of ``muted``; ``None`` for no end.
            note: a text for other people.

        Raises:
            ValueError: ``status`` is another text, or ``until`` is given for another mark than ``muted``.
            FailureUnknown: no failure of the group is stored.
            AbilityMissing: the store keeps no marks.
        """
        mark(self.store, group, status, at=self.clock.now, until=until, note=note)

    def stuck(self, filter: str | Filter = "", *, limits: Limits = DEFAULT) -> Sequence[StuckTask]:
        """Return the stuck tasks that a filter finds, the one that has been stuck for the longest time first.

        A task is stuck if it has run for longer than any earlier one of its name and its worker is silent, or if it was
        sent (see ``result_track_sent``) and has not started for longer than any earlier one, and for 15 minutes.

        Args:
            filter: see docs/filters.md.
            limits: from when on a task is stuck.

        Raises:
            FilterWrong: a term of the filter cannot be understood.
            AbilityMissing: the store has no index, and too many records.
        """
        clock, opener = self.clock, partial(opened, self.codec)
        query = looked_up(self.parsed(filter, clock), self.store, clock, opener)
        return stuck_tasks(self.store, clock, Matcher(query.condition, clock, opener), opener, limits)

    def tree(self, task_id: str, *, budget: float = BUDGET) -> TaskTree:
        """Return the workflow of a task, such as a chain, a group or a chord, with its critical path.

        Args:
            task_id: any task of the workflow.
            budget: seconds for the search for members of groups that no record names.

        Raises:
            RootcellarError: nothing is stored of the task.
        """
        return tree_of(self.store, self.codec, self.clock, task_id, budget)
