"""How long a result is kept: the nearest of the call, the task, the rules, and the settings of Celery."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final, TypeAlias

from rootcellar.errors import ConfigurationError
from rootcellar.records import ENDS, TaskRecord
from rootcellar.retention.durations import MAX_SECONDS as MAX_SECONDS
from rootcellar.retention.durations import read_duration
from rootcellar.retention.rules import ARCHIVE, SETTING, VARIABLE, Rule, read_rules
from rootcellar.stores.search import Condition, Every, Negated, OneOf, Some
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

#: the states to which ``result_failure_expires`` applies
FAILED = frozenset({"FAILURE", "REVOKED"})

#: Celery's own ``result_expires``
DEFAULT_SECONDS = 86_400
#: an unfinished chord is kept at least this long if there is no setting for chords
MIN_CHORD_SECONDS = 86_400.0
#: a task that has not ended is kept at least this long if something nearer than the settings says how long
MIN_UNFINISHED_SECONDS = 86_400.0

#: how long a blob without a record is kept: at least, and if unfinished chords are kept for ever
MIN_BLOB_SECONDS, MAX_BLOB_SECONDS = 3_600.0, 30 * 86_400.0

#: what says how long a result is kept, the nearest first
CALL, TASK, RULE, FAILURES, RESULTS = "call", "task", "rule", "result_failure_expires", "result_expires"
LEVELS = (CALL, TASK, RULE, FAILURES, RESULTS)


class NotGiven(Enum):
    """The value of what a call or a task does not say; ``None`` means for ever."""

    NOT_GIVEN = "not given"


NOT_GIVEN: Final = NotGiven.NOT_GIVEN
#: a time in seconds; ``None`` for ever
Given: TypeAlias = "float | NotGiven | None"

#: An expiry that a call or a task has given is so much later. Times are whole milliseconds otherwise, so this shows
#: which results `rootcellar retention apply` must leave alone, and costs no column.
MARKS = {CALL: timedelta(microseconds=1), TASK: timedelta(microseconds=2)}
_MILLISECOND = timedelta(milliseconds=1)
_NO_MARK = timedelta(0)

#: the most combinations of task, state and queue that are remembered
_MOST_KNOWN = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a result when it is stored.

    Attributes:
        state: its state.
        name: the name of its task.
        queue: the queue of its task.
        size: the bytes of the serialized result.
        by_call: how long the call, or the running task, wants it to be kept, in seconds; ``None`` for ever.
        by_task: how long the task's attribute ``result_expires`` wants it, in seconds; ``None`` for ever.
    """

    state: str
    name: str | None = None
    queue: str | None = None
    size: int = 0
    by_call: Given = NOT_GIVEN
    by_task: Given = NOT_GIVEN


@dataclass(frozen=True, slots=True)
class Decision:
    """How long a result is kept, and why.

    Attributes:
        seconds: the time in seconds; ``None`` for ever.
        level: what says so: one of :data:`LEVELS`.
        rule: the rule, if a rule says so.
    """

    seconds: float | None
    level: str
    rule: Rule | None = None

    @property
    def lasts(self) -> float:
        """The time in seconds, infinite for ever."""
        return self.seconds or float("inf")

    @property
    def delta(self) -> timedelta | None:
        """The time between the end of a task and its expiry, with the mark of its level; ``None`` for ever."""
        if not self.seconds:
            return None
        return _milliseconds(self.seconds) + MARKS.get(self.level, _NO_MARK)


#: for results larger than so many bytes (-1 for all): the time until they expire; ``None`` for ever
Times = tuple[tuple[int, timedelta | None], ...]


@dataclass(frozen=True, slots=True)
class Retention:
    """The retention rules of the settings. ``None`` or 0 means for ever.

    Attributes:
        results: how long a result is kept, in seconds (``result_expires``).
        failures: how long a failure is kept, in seconds (``result_failure_expires``); ``None``: as long as any result.
        chords: how long an unfinished chord is kept after its last part was stored, in seconds
            (``result_chord_expires``); ``None``: as long as any result, but at least a day, because a chord may run
            longer than results are kept.
        rules: the rules (``result_retention``); the first one that matches counts.
    """

    results: float | None
    failures: float | None = None
    chords: float | None = None
    rules: tuple[Rule, ...] = ()
    _known: dict[tuple[Any, ...], Times] = field(default_factory=dict, init=False, repr=False, compare=False)

    def decide(self, facts: Facts) -> Decision:
        """Return how long a result is kept: the nearest of call, task, first matching rule, and settings.

        A task that has not ended is kept for its longest time, whatever its end will be, so that its record does not
        vanish while it runs: at least a day if a call, a task or a rule says how long. If only the settings do, it is
        kept as long as they say, as with Celery, which may be shorter than the task runs.
        """
        if facts.state not in ENDS:
            return self._unfinished(facts)
        if facts.by_call is not NOT_GIVEN:
            return Decision(facts.by_call, CALL)
        if facts.by_task is not NOT_GIVEN:
            return Decision(facts.by_task, TASK)
        if (rule := self.rule_of(facts)) is not None:
            return Decision(rule.keep, RULE, rule)
        return self._by_settings(facts.state)

    def rule_of(self, facts: Facts) -> Rule | None:
        """Return the first rule that matches a result."""
        return next(
            (rule for rule in self.rules if rule.matches(facts.name, facts.state, facts.queue, facts.size)), None
        )

    def result_expiry(self, state: str, now: datetime) -> datetime | None:
        """Return when a result that is stored ``now`` in ``state`` may be deleted, or ``None`` for never.

        Nothing is known of its task.
        """
        return self.expiry(now, None, state, None, 0, NOT_GIVEN)

    def group_expiry(self, now: datetime, size: int) -> datetime | None:
        """Return when a saved group of ``size`` bytes may be deleted, or ``None`` for never.

        Rules about a task or a queue do not match it.
        """
        return self.expiry(now, None, "SUCCESS", None, size, NOT_GIVEN)

    def expiry(
        self, now: datetime, name: str | None, state: str, queue: str | None, size: int, task: Any
    ) -> datetime | None:
        """Return when a result of a task whose call says nothing may be deleted, or ``None`` for never.

        The answers are remembered for each task, state and queue.

        Args:
            now: when it is stored.
            name, state, queue, size: see :class:`Facts`.
            task: what has the attribute ``result_expires``; ``None`` or :data:`NOT_GIVEN` if the task is not known.
        """
        key = (name, state, queue, task is None)
        times = self._known.get(key)
        if times is None:
            times = self._remember(key, self.times(name, state, queue, _by_task_or_log(task)))
        for larger_than, time in times:
            if size > larger_than:
                return None if time is None else now + time
        raise AssertionError(times)

    def times(self, name: str | None, state: str, queue: str | None, by_task: Given = NOT_GIVEN) -> Times:
        """Return how long results are kept that are larger than so many bytes; the first one that fits counts."""
        limits = {rule.larger_than for rule in self.rules if rule.larger_than is not None}
        sizes = sorted({-1, *limits}, reverse=True)
        facts = (Facts(name=name, state=state, queue=queue, size=size + 1, by_task=by_task) for size in sizes)
        return tuple((size, self.decide(each).delta) for size, each in zip(sizes, facts, strict=True))

    def archiving(self) -> Condition | None:
        """Return the condition on stored tasks that are archived when they expire; ``None`` if no rule archives.

        These are the tasks that have ended, and whose first matching rule says so, whatever says how long they are
        kept. The size of an encrypted or compressed result is not known to a server: then it counts as large enough to
        be archived, and as too small to be deleted.
        """
        terms: list[Condition] = []
        deleting: list[Condition] = []
        for rule in self.rules:
            if rule.then == ARCHIVE:
                terms.append(Every((rule.condition(is_widened=True), *map(Negated, deleting))))
            else:
                deleting.append(rule.condition(is_widened=False))
        return Every((OneOf("status", tuple(sorted(ENDS))), Some(tuple(terms)))) if terms else None

    def archives(self, record: TaskRecord) -> bool:
        """Return whether a stored task is archived when it expires: the condition of :meth:`archiving` for one task."""
        if record.state not in ENDS:
            return False
        result = record.result
        sizes = [0 if result is None else len(result.body)]
        if result is not None and (result.compression or result.key_id):
            sizes.append(_ANY_SIZE)
        facts = (Facts(name=record.name, state=record.state, queue=record.queue, size=size) for size in sizes)
        return any(rule is not None and rule.then == ARCHIVE for rule in map(self.rule_of, facts))

    def archive_expiry(self, record: TaskRecord, size: int | None = None) -> datetime | None:
        """Return how long the archive keeps a task, counted from its expiry; ``None`` for ever.

        A task that is kept for ever, or that no rule archives, is kept in the archive for ever.

        Args:
            record: the task.
            size: the bytes of its result, if they are not in the record but in a blob.
        """
        if record.expires_at is None:
            return None
        length = size if size is not None else 0 if record.result is None else len(record.result.body)
        rule = self.rule_of(Facts(name=record.name, state=record.state, queue=record.queue, size=length))
        if rule is None or rule.then != ARCHIVE:
            rule = next(iter(self._archiving_of(record)), None)
        if rule is None or rule.archive_for is None:
            return None
        return record.expires_at + _milliseconds(rule.archive_for)

    def chord_expiry(self, now: datetime) -> datetime | None:
        """Return when a chord may be deleted whose start or last part is ``now``; ``None`` for never."""
        return _after(now, self._chord_seconds())

    def blob_grace(self) -> float:
        """Return how many seconds a blob without a record is kept, because a part of a chord may refer to it."""
        return max(MIN_BLOB_SECONDS, self._chord_seconds() or MAX_BLOB_SECONDS)

    def _archiving_of(self, record: TaskRecord) -> Iterator[Rule]:
        """Yield the rules that archive a task if the size of its result does not count."""
        for rule in self.rules:
            if rule.then == ARCHIVE and rule.matches(record.name, record.state, record.queue, _ANY_SIZE):
                yield rule

    def _remember(self, key: tuple[Any, ...], times: Times) -> Times:
        if len(self._known) >= _MOST_KNOWN:
            # names come in messages; a message must not be able to fill the memory
            self._known.clear()
        self._known[key] = times
        return times

    def _by_settings(self, state: str) -> Decision:
        if state in FAILED and self.failures is not None:
            return Decision(self.failures or None, FAILURES)
        return Decision(self.results or None, RESULTS)

    def _unfinished(self, facts: Facts) -> Decision:
        """Return the longest time that any end of the task would have."""
        possible = list(self._possible(facts))
        longest = max(possible, key=lambda each: each.lasts)
        is_by_settings = all(each.level in (FAILURES, RESULTS) for each in possible)
        if is_by_settings or longest.lasts >= MIN_UNFINISHED_SECONDS:
            return longest
        return Decision(MIN_UNFINISHED_SECONDS, longest.level, longest.rule)

    def _possible(self, facts: Facts) -> Iterator[Decision]:
        """Yield what may be decided at the end of a task."""
        if facts.by_call is not NOT_GIVEN:
            yield Decision(facts.by_call, CALL)
            return
        if facts.by_task is not NOT_GIVEN:
            yield Decision(facts.by_task, TASK)
            return
        for state in sorted(ENDS):
            for rule in self.rules:
                if not rule.matches(facts.name, state, facts.queue, _ANY_SIZE):
                    continue
                yield Decision(rule.keep, RULE, rule)
                if rule.larger_than is None:
                    break
            else:
                yield self._by_settings(state)

    def _chord_seconds(self) -> float | None:
        if self.chords is not None:
            return self.chords
        return max(self.results, MIN_CHORD_SECONDS) if self.results else None


#: larger than any limit
_ANY_SIZE = 2**62


def by_task(task: Any) -> Given:
    """Return how long a task's attribute ``result_expires`` wants its results, in seconds; ``None`` for ever.

    :data:`NOT_GIVEN` if it has none.

    Raises:
        ConfigurationError: the attribute is wrong.
    """
    given = getattr(task, RESULTS, NOT_GIVEN)
    if given is NOT_GIVEN:
        return NOT_GIVEN
    return read_duration(given, f"{RESULTS} of task {getattr(task, 'name', task)}")


def _by_task_or_log(task: Any) -> Given:
    """Do the same, but a result must not be lost because its task's attribute is wrong."""
    try:
        return by_task(task)
    except ConfigurationError as exc:
        logger.error("%s. The attribute is ignored; the rules and the settings say how long its results are kept.", exc)
        return NOT_GIVEN


def call_expiry(now: datetime, seconds: float | None, state: str) -> datetime | None:
    """Return when a result may be deleted whose call, or whose running task, says how long it is kept.

    Args:
        now: when it is stored.
        seconds: the time in seconds; ``None`` for ever.
        state: its state; a task that has not ended is kept for at least a day.
    """
    if not seconds:
        return None
    if state not in ENDS:
        seconds = max(seconds, MIN_UNFINISHED_SECONDS)
    return now + _milliseconds(seconds) + MARKS[CALL]


def level_of(record: TaskRecord) -> str | None:
    """Return :data:`CALL` or :data:`TASK` if the expiry of a finished task shows that one of these has given it."""
    if record.expires_at is None or record.done_at is None:
        return None
    rest = (record.expires_at - record.done_at) % _MILLISECOND
    return next((level for level, mark in MARKS.items() if rest == mark), None)


def _milliseconds(seconds: float) -> timedelta:
    return timedelta(milliseconds=max(round(seconds * 1_000), 1))


def _after(now: datetime, seconds: float | None) -> datetime | None:
    return now + timedelta(seconds=seconds) if seconds else None


def read_seconds(value: Any, setting: str, *, longest: float = MAX_SECONDS) -> float:
    """Return a setting's time in seconds.

    Args:
        value: a number of seconds, or a timedelta.
        setting: the setting's name.
        longest: the longest time that is possible, in seconds.

    Raises:
        ConfigurationError: it is not a time from 0 to ``longest``.
    """
    try:
        seconds = float(value.total_seconds() if isinstance(value, timedelta) else value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if isinstance(value, bool) or not 0 <= seconds <= longest:
        raise ConfigurationError(
            f"{setting} is {value!r}",
            where=setting,
            remedy=f"give a number of seconds from 0 to {longest:.0f}, or a timedelta",
        )
    return seconds


def read_expiry(value: Any, setting: str) -> float | None:
    """Return a setting of Celery in seconds: 0 for ever, ``None`` if it is not set.

    Raises:
        ConfigurationError: it is not a time.
    """
    return None if value is None else read_duration(value, setting) or 0.0


def read_retention(conf: Mapping[str, Any], results: Any = NOT_GIVEN) -> Retention:
    """Return how long results are kept, from Celery's settings.

    Rules that are not in the settings are those of the environment variable ``ROOTCELLAR_RETENTION``.

    Args:
        conf: the settings.
        results: the value of ``result_expires``, if it is not that of the settings.

    Raises:
        ConfigurationError: a setting is wrong.
    """
    rules, where = conf.get(SETTING), SETTING
    if rules is None and (text := os.environ.get(VARIABLE)):
        rules, where = text, VARIABLE
    return Retention(
        read_expiry(conf.get(RESULTS, DEFAULT_SECONDS) if results is NOT_GIVEN else results, RESULTS),
        read_expiry(conf.get(FAILURES), FAILURES),
        read_expiry(conf.get("result_chord_expires"), "result_chord_expires"),
        read_rules(rules, where),
    )
