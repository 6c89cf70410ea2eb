"""Looks at both stores before a migration begins, and says what it would do. Changes nothing that stays."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from rootcellar.errors import RootcellarError, SchemaMissing
from rootcellar.migration.beside_results import active_holds, holds_refused, number_archived
from rootcellar.migration.confirmations import Process, processes_of
from rootcellar.migration.pair import Pair, Side, pair_of, refusal
from rootcellar.migration.state import NAMES, find_state, is_over
from rootcellar.migration.walking import walk_tasks
from rootcellar.stores.base import HasSchema, Store
from rootcellar.stores.counting import Counted
from rootcellar.stores.holding import Holding
from rootcellar.stores.mirroring import MIGRATION_KEYS
from rootcellar.stores.older import Older
from rootcellar.stores.shared_values import SharesValues
from rootcellar.text.escaping import visible

#: the most hosts that are named
_HOSTS = 8


class Level(str, Enum):
    """How important a finding is."""

    OK = "ok"
    NOTE = "note"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one topic.

    Attributes:
        level: how important it is.
        about: the topic: ``source``, ``target``, ``processes`` and so on.
        text: one or two sentences.
    """

    level: Level
    about: str
    text: str


def plan(source: Store, target: Store) -> list[Finding]:
    """Return what was found. The migration can begin if nothing is refused."""
    found = [*_of_store("source", source), *_of_store("target", target)]
    if any(each.level is Level.REFUSED for each in found):
        return found
    try:
        pair = pair_of(source, target)
        for part in (_of_state, _of_target_results, _of_processes, _of_chords, _of_what_stays):
            found += part(pair)
    except RootcellarError as exc:
        found.append(Finding(Level.REFUSED, "both", str(exc)))
    return found


def has_results(side: Side) -> bool:
    """Return whether a store holds a result."""
    return any(batch.rows for batch in walk_tasks(side.streamed.stream))


# -- each store


def _of_store(name: str, store: Store) -> Iterator[Finding]:
    problem = refusal(name, store)
    if problem is not None:
        yield Finding(Level.REFUSED, name, str(problem))
        return
    try:
        yield from _of_tables(name, store)
    except RootcellarError as exc:
        yield Finding(Level.REFUSED, name, str(exc))


def _of_tables(name: str, store: Store) -> Iterator[Finding]:
    tables = store.ability(HasSchema)
    if tables is None:
        store.check()
    else:
        status = tables.schema.status()
        if status.foreign:
            store.check()
        if not status.version and name == "source":
            raise SchemaMissing(
                "the source has no results yet", where=store.where, remedy="check that it is the right database"
            )
        if not status.version:
            yield Finding(
                Level.NOTE,
                name,
                f"{store.where} can be reached. Its tables are created by the first process that uses them.",
            )
            return
        if status.version < status.wanted:
            yield Finding(
                Level.NOTE,
                name,
                f"The tables are of version {status.version}, and this release needs {status.wanted}. The first "
                "process that uses them upgrades them, or `rootcellar schema upgrade` does.",
            )
            return
    _check_writable(store)
    yield Finding(Level.OK, name, f"{store.where} can be reached and written.{_size(store)}")


def _check_writable(store: Store) -> None:
    """Store a value and delete it."""
    values = store.ability(SharesValues)
    assert values is not None, "refusal() asked for it"
    key = f"{MIGRATION_KEYS}plan/{uuid.uuid4().hex}"
    values.share(key, "{}")
    values.unshare([key])


def _size(store: Store) -> str:
    count: Callable[[], int] | None = getattr(store, "count_roughly", None)
    if count is None:
        return ""
    rows = count()
    return f" It has about {rows:,} results." if rows else ""


# -- both stores


def _of_state(pair: Pair) -> Iterator[Finding]:
    for side in (pair.target, pair.source):
        state = find_state(side)
        if state is None or is_over(state):
            continue
        if (state.source, state.target) == (pair.source.url, pair.target.url):
            yield Finding(
                Level.NOTE,
                "migration",
                f"It has begun: the phase is {NAMES[state.phase]!r}. See `rootcellar migrate status`.",
            )
            return
        yield Finding(
            Level.REFUSED,
            side.name,
            f"It takes part in another migration, from {state.source} to {state.target}. Finish that one first.",
        )


def _of_target_results(pair: Pair) -> Iterator[Finding]:
    state = find_state(pair.target)
    if (state is None or is_over(state)) and has_results(pair.target):
        yield Finding(Level.REFUSED, "target", f"{not_empty(pair)}.")


def not_empty(pair: Pair) -> str:
    """Return what is wrong with a target that has results already."""
    return (
        "it has results already, and not those of this migration: they would be mixed, and those that the source "
        f"lacks would be deleted ({pair.target.where}). Name an empty one, or delete them with "
        "`rootcellar forget state:any`"
    )


def _of_processes(pair: Pair) -> Iterator[Finding]:
    processes = processes_of(pair)
    if not processes:
        yield Finding(
            Level.NOTE,
            "processes",
            "None follows the migration yet. Deploy ROOTCELLAR_MIGRATION to every worker and client, and restart "
            "them, before you start: a process without it would miss results.",
        )
        return
    yield Finding(Level.OK, "processes", f"{processes_on_hosts(processes)} the migration. Check that these are all.")


def processes_on_hosts(processes: list[Process]) -> str:
    """Return ``4 processes on 2 hosts (web1: 3, web2: 1) follow``."""
    counts: dict[str, int] = {}
    for each in processes:
        counts[each.host] = counts.get(each.host, 0) + 1
    shown = [f"{visible(host)}: {count}" for host, count in list(counts.items())[:_HOSTS]]
    more = ", …" if len(counts) > _HOSTS else ""
    hosts = "1 host" if len(counts) == 1 else f"{len(counts):,} hosts"
    number = "1 process" if len(processes) == 1 else f"{len(processes):,} processes"
    return f"{number} on {hosts} ({', '.join(shown)}{more}) follow{'s' if len(processes) == 1 else ''}"


def _of_chords(pair: Pair) -> Iterator[Finding]:
    count = pair.source.streamed.open_chords()
    if count:
        text = "1 chord is open" if count == 1 else f"{count:,} chords are open"
        yield Finding(Level.OK, "chords", f"{text} in the source. They finish there.")


def _of_what_stays(pair: Pair) -> Iterator[Finding]:
    source, target = pair.source.store, pair.target.store
    holds = active_holds(source)
    if holds and target.ability(Holding) is None:
        yield Finding(Level.REFUSED, "holds", str(holds_refused(pair, len(holds))))
    elif holds:
        yield Finding(Level.OK, "holds", f"{len(holds):,} active holds are copied, too.")
    archived = number_archived(source)
    if archived:
        yield Finding(
            Level.NOTE,
            "archive",
            f"{archived:,} archived results stay with the source: the list of its files is not moved. Before you "
            "retire the source, restore them with `rootcellar restore`, or keep the source for its archive.",
        )
    older = source.ability(Older)
    if older is not None and older.status().is_enabled:
        yield Finding(Level.OK, "older table", "Its results are copied, into the live table of the target.")
    yield from _of_counts(source, target)


def _of_counts(source: Store, target: Store) -> Iterator[Finding]:
    counted = source.ability(Counted)
    if counted is None:
        return
    if target.ability(Counted) is None:
        yield Finding(
            Level.NOTE, "counts", "The target keeps no counts: `rootcellar stats` and `failures` do not work there."
        )
        return
    yield Finding(
        Level.NOTE,
        "counts",
        "The target counts the copied results anew. What was deleted from the source before is not in its counts, and "
        "marks and notes of groups of failures are not moved.",
    )
