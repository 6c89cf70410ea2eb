"""Every place that can say how long a result is kept, with what it says: what ``retention explain`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rootcellar.records import ENDS
from rootcellar.retention.durations import show_duration
from rootcellar.retention.policy import CALL, FAILED, FAILURES, NOT_GIVEN, RESULTS, RULE, TASK, Facts, Given, Retention
from rootcellar.retention.rules import Rule


@dataclass(frozen=True, slots=True)
class Link:
    """One place, the nearest first.

    Attributes:
        level: one of :data:`~rootcellar.retention.policy.LEVELS`.
        text: what it says of this result, or why it does not count, in English.
        counts: whether this place decides.
        seconds: the time that it says, ``None`` for ever, or if it says nothing of this result.
        rule: the rule, if it is one.
    """

    level: str
    text: str
    counts: bool
    seconds: float | None = None
    rule: Rule | None = None

    @property
    def name(self) -> str:
        """What the place is called."""
        return f"rule {self.rule.index + 1}" if self.rule is not None else self.level


def chain_of(retention: Retention, facts: Facts) -> tuple[Link, ...]:
    """Return every place that can say how long a result is kept."""
    decision = retention.decide(facts)

    def link(level: str, text: str, seconds: float | None = None, rule: Rule | None = None) -> Link:
        return Link(level, text, decision.level == level and decision.rule is rule, seconds, rule)

    by_call = _said(facts.by_call, "a call, or the running task, may say another time")
    links = [link(CALL, by_call, _time(facts.by_call))]
    links.append(link(TASK, _said(facts.by_task, "says nothing"), _time(facts.by_task)))
    links += [link(RULE, _of_rule(rule, facts), rule.keep, rule) for rule in retention.rules]
    links.append(link(FAILURES, _of_failures(retention, facts), retention.failures or None))
    links.append(link(RESULTS, _kept(retention.results), retention.results or None))
    return tuple(links)


def _of_rule(rule: Rule, facts: Facts) -> str:
    """Return a rule in English, and why it does not match."""
    is_ended = facts.state in ENDS
    reasons = [
        reason
        for reason, is_met in (
            (f"the task is not {_listed(rule.tasks)}", _is_met_by_task(rule, facts)),
            (f"the queue is not {_listed(rule.queues)}", _is_met_by_queue(rule, facts)),
            (f"the state is not {_listed(rule.states)}", not is_ended or not rule.states or facts.state in rule.states),
            (
                f"it is not larger than {rule.larger_than or 0:,} bytes",
                not is_ended or rule.larger_than is None or facts.size > rule.larger_than,
            ),
        )
        if not is_met
    ]
    return f"does not match: {', '.join(reasons)}" if reasons else str(rule)


def _listed(texts: Sequence[str]) -> str:
    return " or ".join(texts)


def _is_met_by_task(rule: Rule, facts: Facts) -> bool:
    return Rule(index=0, tasks=rule.tasks).matches_call(facts.name, None)


def _is_met_by_queue(rule: Rule, facts: Facts) -> bool:
    return Rule(index=0, queues=rule.queues).matches_call(None, facts.queue)


def _of_failures(retention: Retention, facts: Facts) -> str:
    if retention.failures is None:
        return "not set"
    kept = _kept(retention.failures)
    return kept if facts.state in FAILED or facts.state not in ENDS else f"not for {facts.state}: {kept}"


def _said(given: Given, otherwise: str) -> str:
    return otherwise if given is NOT_GIVEN else _kept(given)


def _time(given: Given) -> float | None:
    return None if given is NOT_GIVEN else given


def _kept(seconds: float | None) -> str:
    return f"kept for {show_duration(seconds)}" if seconds else "kept for ever"
