"""The rules of all processes that archive: no cleanup deletes what another application's rule archives.

Several applications may keep their results in one table, and each knows only its own rules; so does a worker that still
has the settings of before a deployment, and a command without an application. So each process whose rules archive puts
them on record in the store: a worker when it starts and every hour, and whatever cleans up or archives. Each process
that deletes expired results spares what its own rules archive, and what those on record archive.
"""

from __future__ import annotations

import hashlib
import json
import logging
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any

from rootcellar.errors import ConfigurationError, RootcellarError
from rootcellar.records import ENDS, TaskRecord
from rootcellar.retention.policy import Retention
from rootcellar.retention.rules import ARCHIVE, Rule, read_rules
from rootcellar.stores.base import Store
from rootcellar.stores.rules_on_record import KeepsRules
from rootcellar.stores.search import Condition, OneOf, Some
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

#: rules on record count for so long after a process used them last
COUNTS_FOR = timedelta(days=30)
#: longer texts are not kept: a column of MySQL has room for 65,535 bytes
_LONGEST = 60_000
_ENDED = OneOf("status", tuple(sorted(ENDS)))


@dataclass(frozen=True, slots=True)
class RecordedRules:
    """Rules on record. At least one of them archives.

    Attributes:
        key: their short hash.
        rules: those that decide what is archived; ``None`` if they cannot be read.
        host: the host of the process that used them last.
        seen_at: when that was.
        condition: the results that they archive; all results of tasks that ended, if they cannot be read.
    """

    key: str
    rules: tuple[Rule, ...] | None
    host: str
    seen_at: datetime
    condition: Condition

    def archives(self, record: TaskRecord) -> bool:
        """Return whether these rules archive a stored task when it expires: the condition for one task."""
        if self.rules is None:
            return record.state in ENDS
        return Retention(None, rules=self.rules).archives(record)


def put_on_record(store: Store, retention: Retention) -> bool:
    """Put the rules of a process on record, if one of them archives and the store keeps rules; return whether it did.

    Raises:
        StoreError: they could not be stored.
    """
    keeps = store.ability(KeepsRules)
    given = _deciding(retention.rules)
    if keeps is None or not given:
        return False
    listed = json.dumps(given, sort_keys=True)
    key = hashlib.sha256(listed.encode()).hexdigest()[:12]
    rules = given if len(listed) < _LONGEST else None
    keeps.put_rules(key, json.dumps({"host": socket.gethostname(), "rules": rules}))
    return True


def put_on_record_or_log(store: Store, retention: Retention) -> None:
    """Do the same; a failure is only logged, because what this process does next needs its own rules not on record."""
    try:
        put_on_record(store, retention)
    except RootcellarError as exc:
        logger.warning(
            "Could not put the rules that archive on record, so another application's cleanup may delete what they "
            "archive: %s",
            exc,
        )


def rules_on_record(store: Store) -> Sequence[RecordedRules]:
    """Return the rules on record that count, the latest used first; none if the store keeps no rules.

    Raises:
        StoreError: they could not be read.
    """
    keeps = store.ability(KeepsRules)
    if keeps is None:
        return []
    since = datetime.now(timezone.utc) - COUNTS_FOR
    found = [each for each in keeps.rules_on_record() if each.seen_at >= since]
    found.sort(key=lambda each: each.seen_at, reverse=True)
    return [RecordedRules(each.key, *_read(each.text), each.seen_at, _condition(each.text)) for each in found]


def archived_by_any(store: Store, own: Condition | None) -> Condition | None:
    """Return the condition of results that a process must not delete, because they will be archived.

    Args:
        store: the store.
        own: those that the rules of this process archive; ``None`` for none.

    Returns:
        ``None`` if no process archives.

    Raises:
        StoreError: the rules on record could not be read.
    """
    terms = [] if own is None else [own]
    for each in rules_on_record(store):
        if each.condition not in terms:
            terms.append(each.condition)
    if not terms:
        return None
    return terms[0] if len(terms) == 1 else Some(tuple(terms))


def _deciding(rules: Sequence[Rule]) -> list[dict[str, Any]]:
    """Return what decides which results are archived: the rules up to the last one that archives, without their times.

    A rule whose time is changed stays the same.
    """
    last = max((number for number, rule in enumerate(rules) if rule.then == ARCHIVE), default=-1)
    return [_as_mapping(rule) for rule in rules[: last + 1]]


def _as_mapping(rule: Rule) -> dict[str, Any]:
    fields = {
        "task": list(rule.tasks),
        "state": list(rule.states),
        "queue": list(rule.queues),
        "larger_than": rule.larger_than,
        "then": rule.then,
    }
    return {name: value for name, value in fields.items() if value not in ([], None)}


@lru_cache(maxsize=100)
def _read(text: str) -> tuple[tuple[Rule, ...] | None, str]:
    """Return rules on record, and their host. A later release may write what this one cannot read."""
    try:
        found = json.loads(text)
        rules = read_rules([{**rule, "keep": 1} for rule in found["rules"]])
        return rules, str(found["host"])
    except (ValueError, TypeError, KeyError, ConfigurationError):
        return None, _host(text)


def _host(text: str) -> str:
    try:
        found = json.loads(text)
    except ValueError:
        return "unknown"
    return str(found.get("host", "unknown")) if isinstance(found, Mapping) else "unknown"


@lru_cache(maxsize=100)
def _condition(text: str) -> Condition:
    rules, _ = _read(text)
    condition = None if rules is None else Retention(None, rules=rules).archiving()
    return _ENDED if condition is None else condition
