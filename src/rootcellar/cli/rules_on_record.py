"""``rootcellar retention recorded`` and ``forget-rules``: the rules that archive, of all applications of a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Annotated, Any

import typer

from rootcellar.cli.confirmation import confirm
from rootcellar.cli.options import Choice, JsonOption, YesOption, store_options
from rootcellar.cli.output import console, print_json, say, visible
from rootcellar.cli.stores import existing_results
from rootcellar.cli.times import full_moment
from rootcellar.errors import AbilityMissing, ConfigurationError
from rootcellar.retention.on_record import COUNTS_FOR, RecordedRules, rules_on_record
from rootcellar.stores.base import Store
from rootcellar.stores.expiring import Due, Expiring
from rootcellar.stores.rules_on_record import KeepsRules

RECORDED_EXAMPLE = """\b
Examples:
  rootcellar retention recorded -A shop.celery
  rootcellar retention recorded --json
"""
FORGET_EXAMPLE = """\b
Example:
  rootcellar retention forget-rules 1f0a9c2b7d3e -A shop.celery
"""
#: the most expired results that are looked at
_MOST_COUNTED = 100_000


@dataclass(frozen=True, slots=True)
class _Waiting:
    """How many expired results rules archive, and whether all expired results were looked at."""

    count: int
    is_all: bool

    def __str__(self) -> str:
        results = "result waits" if self.count == 1 else "results wait"
        return f"{'' if self.is_all else 'at least '}{self.count:,} expired {results} for the archive"


@store_options
def recorded(choice: Choice, as_json: JsonOption = False) -> None:
    """List the rules on record: what they archive is not deleted by any cleanup.

    Each worker with a rule that archives puts its rules on record when it starts and every hour; so do a cleanup and an
    archive run. So another application, or a worker with other rules, does not delete these results. Rules that no
    process has used for 30 days do not count and are not listed.
    """
    with existing_results(choice) as results:
        _must_keep(results.store)
        found = [(rules, _waiting(results.store, rules)) for rules in rules_on_record(results.store)]
        where = results.store.where
    if as_json:
        print_json([_as_object(rules, waiting) for rules, waiting in found])
        return
    if not found:
        say(f"No rules are on record in {where}.")
    for rules, waiting in found:
        for line in _lines(rules):
            console().print(f"{rules.key}: {visible(line)}", soft_wrap=True, markup=False)
        say(f"  last used {full_moment(rules.seen_at)}, on host {visible(rules.host)}; {waiting}")


@store_options
def forget_rules(
    choice: Choice,
    key: Annotated[str, typer.Argument(metavar="ID", help="The id that `retention recorded` shows")],
    yes: YesOption = False,
) -> None:
    """Remove rules from the record, because no application has them any more.

    The next cleanup deletes the expired results that only these rules archive. A worker that still has the rules puts
    them on record again within the hour. Exit status 1 if there are no such rules.
    """
    with existing_results(choice) as results:
        keeps = _must_keep(results.store)
        found = {rules.key: rules for rules in rules_on_record(results.store)}
        if key not in found:
            raise ConfigurationError(
                f"no rules {visible(key)} are on record in {results.store.where}",
                where="ID",
                remedy=f"the ids are: {', '.join(found)}" if found else "there is nothing to remove",
            )
        waiting = _waiting(results.store, found[key])
        confirm(yes, f"Remove the rules {key} ({'; '.join(_lines(found[key]))})? {waiting}.")
        keeps.drop_rules(key)
    say(f"The rules {key} are removed from the record. {waiting}: if no other rules archive them, they are deleted.")


def _must_keep(store: Store) -> KeepsRules:
    keeps = store.ability(KeepsRules)
    if keeps is None:
        raise AbilityMissing(
            "this store keeps no rules on record, because its server deletes expired results by itself",
            where=store.where,
            remedy="use PostgreSQL, MySQL, MariaDB or SQLite, alone or behind Redis, to archive results",
        )
    return keeps


def _waiting(store: Store, rules: RecordedRules) -> _Waiting:
    expiring = store.ability(Expiring)
    if expiring is None:
        return _Waiting(0, is_all=False)
    due = Due(now=datetime.now(timezone.utc), limit=_MOST_COUNTED, wanted=rules.condition)
    counted = expiring.count_expired(due)
    return _Waiting(counted.count, is_all=counted.last is None)


def _lines(rules: RecordedRules) -> Sequence[str]:
    if rules.rules is None:
        return ["these rules cannot be read by this release, so every result of a task that ended stays"]
    return [f"{rule.subject}: {rule.then}d" for rule in rules.rules]


def _as_object(rules: RecordedRules, waiting: _Waiting) -> dict[str, Any]:
    return {
        "id": rules.key,
        "rules": None if rules.rules is None else list(_lines(rules)),
        "host": rules.host,
        "last_used": full_moment(rules.seen_at),
        "counts_until": full_moment(rules.seen_at + COUNTS_FOR),
        "waiting": waiting.count,
        "waiting_all_counted": waiting.is_all,
    }
