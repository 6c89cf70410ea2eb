"""Looks at both stores before a migration begins, and says what it would do. Changes nothing that stays."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from rootcellar.errors import RootcellarError, SchemaMissing
from rootcellar.migration.beside_results import active_holds, holds_refused, number_archived
from rootcellar.migration.confirmations import Process, processes_of
from rootcellar.migration.pair import Pair, Side, pair_of, refusal
from rootcellar.migration.state import NAMES, StateBook, find_state, is_of, is_over
from rootcellar.migration.walking import walk_tasks
from rootcellar.stores.base import HasSchema, Store
from rootcellar.stores.counting import Counted
from rootcellar.stores.holding import Holding
from rootcellar.stores.mirroring import MIGRATION_KEYS
from rootcellar.stores.older import Older
from rootcellar.stores.shared_values import SharesValues
from rootcellar.stores.streaming import Streamed
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
    """Return what was found. The migration can begin if nothing is refused.

    Tables are not created and not upgraded, so a store that needs that is not asked for more.
    """
    found: list[Finding] = []
    usable = [_look_at(name, store, found) for name, store in (("source", source), ("target", target))]
    if any(each.level is Level.REFUSED for each in found):
        return found
    of_source = (_of_chords, _of_holds, _of_archive, _of_counts) if usable[0] else ()
    of_target = (_of_target_results, _of_processes) if usable[1] else (_of_no_process,)
    try:
        pair = pair_of(source, target)
        sides = [side for side, is_usable in zip((pair.source, pair.target), usable, strict=True) if is_usable]
        found += _of_state(pair, sides)
        for part in (*of_target, *of_source):
            found += part(pair)
    except RootcellarError as exc:
        found.append(Finding(Level.REFUSED, "both", str(exc)))
    return found


def has_results(side: Side) -> bool:
    """Return whether a store holds a result."""
    return any(batch.rows for batch in walk_tasks(side.streamed.stream))


# -- each store


def _look_at(name: str, store: Store, found: list[Finding]) -> bool:
    """Add what is found of one store; return whether its tables can be used as they are."""
    problem = refusal(name, store)
    try:
        if problem is not None:
            raise problem
        note = _of_tables(name, store)
        if note is not None:
            found.append(Finding(Level.NOTE, name, note))
            return False
        _check_writable(store)
        found.append(Finding(Level.OK, name, f"{store.where} can be reached and written.{_size(store)}"))
    except RootcellarError as exc:
        found.append(Finding(Level.REFUSED, name, str(exc)))
        return False
    return True


def _of_tables(name: str, store: Store) -> str | None:
    """Return what must be done with the tables of a store before they can be used; ``None`` for nothing.

    Raises:
        RootcellarError: the store cannot be reached, or has no results to migrate.
    """
    tables = store.ability(HasSchema)
    if tables is None:
        store.check()
        return None
    status = tables.schema.status()
    if status.foreign:
        store.check()
    if not status.version and name == "source":
        raise SchemaMissing(
            "the source has no results yet", where=store.where, remedy="check that it is the right database"
        )
    if not status.version:
        return f"{store.where} can be reached. Its tables are created by the first process that uses them."
    if status.version < status.wanted:
        return (
            f"{store.where}: the tables are of version {status.version}, and this release needs {status.wanted}. The "
            "first process that uses them upgrades them, or `rootcellar schema upgrade` does."
        )
    return None


def _check_writable(store: Store) -> None:
    """Store a value and delete it."""
    values = store.ability(SharesValues)
    assert values is not None, "refusal() asked for it"
    key = f"{MIGRATION_KEYS}plan/{uuid.uuid4().hex}"
    values.share(key, "{}")
    values.unshare([key])


def _size(store: Store) -> str:
    streamed = store.ability(Streamed)
    rows = 0 if streamed is None else streamed.count_roughly()
    return f" It has about {rows:,} results." if rows else ""


# -- both stores


def _of_state(pair: Pair, sides: list[Side]) -> Iterator[Finding]:
    for side in reversed(sides):
        state = find_state(side)
        if state is None or is_over(state):
            continue
        if is_of(state, pair):
            StateBook(pair).find()
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


def _of_no_process(pair: Pair) -> Iterator[Finding]:
    yield Finding(
        Level.NOTE,
        "processes",
        "None follows the migration yet. Deploy ROOTCELLAR_MIGRATION to every worker and client, and restart them, "
        "before you start: a process without it would miss results.",
    )


def _of_processes(pair: Pair) -> Iterator[Finding]:
    processes = processes_of(pair)
    if not processes:
        yield from _of_no_process(pair)
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


def _of_holds(pair: Pair) -> Iterator[Finding]:
    holds = active_holds(pair.source.store)
    if holds and pair.target.store.ability(Holding) is None:
        yield Finding(Level.REFUSED, "holds", str(holds_refused(pair, len(holds))))
    elif holds:
        yield Finding(Level.OK, "holds", f"{len(holds):,} active holds are copied, too.")


def _of_archive(pair: Pair) -> Iterator[Finding]:
    archived = number_archived(pair.source.store)
    if archived:
        yield Finding(
            Level.NOTE,
            "archive",
            f"{archived:,} archived results stay with the source: the list of its files is not moved. Before you "
            "retire the source, restore them with `rootcellar restore`, or keep the source for its archive.",
        )
    older = pair.source.store.ability(Older)
    if older is not None and older.status().is_enabled:
        yield Finding(Level.OK, "older table", "Its results are copied, into the live table of the target.")


def _of_counts(pair: Pair) -> Iterator[Finding]:
    if pair.source.store.ability(Counted) is None:
        return
    if pair.target.store.ability(Counted) is None:
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
