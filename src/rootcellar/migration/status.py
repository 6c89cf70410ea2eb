"""What is known of a migration, for `rootcellar migrate status` and for metrics: read from any machine, at any time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from rootcellar.errors import MigrationRefused, RootcellarError
from rootcellar.migration.confirmations import Process, left_out, processes_in, summed, unconfirmed
from rootcellar.migration.operator import Owner, owner_of
from rootcellar.migration.pair import Pair, pair_of
from rootcellar.migration.state import NAMES, UNMIRRORED, State, StateBook, as_object, state_in
from rootcellar.stores.base import Store
from rootcellar.stores.dual import DualStore
from rootcellar.stores.shared_values import SharesValues
from rootcellar.text.escaping import visible


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Everything that is known of a migration.

    Attributes:
        state: its state; ``None`` if none has begun.
        at: the time on the clock of the target.
        processes: the processes that follow it.
        silent: those that have not confirmed the phase.
        left_out: those that have not, and need not.
        owner: who coordinates it at this moment; ``None`` if nobody does.
        unmirrored: how many tasks are noted because a store did not answer.
        counters: the sums of what all processes have counted, such as reads that were compared.
        problem: why the target cannot be asked, so that this is what the source knows; empty if it can.
    """

    state: State | None
    at: datetime
    processes: Sequence[Process]
    silent: Sequence[Process]
    left_out: Sequence[Process]
    owner: Owner | None
    unmirrored: int
    counters: Mapping[str, int]
    problem: str = ""

    def silent_for(self, process: Process) -> timedelta:
        """Return for how long a process has not confirmed the phase."""
        assert self.state is not None, "without a state, nobody is silent"
        return max(timedelta(0), self.at - self.state.phase_since)


def read_status(pair: Pair) -> Status:
    """Return the status of a migration. If the target cannot be asked, it is what the source knows.

    Raises:
        MigrationRefused: the two stores are named in the wrong order.
        RootcellarError: none of the stores can be asked.
    """
    try:
        StateBook(pair).find()
        return _status([pair.target.values, pair.source.values])
    except MigrationRefused:
        raise
    except RootcellarError as exc:
        return replace(_status([pair.source.values]), problem=str(exc))


def status_of(store: Store) -> Status | None:
    """Return the status of the migration in which a store takes part; ``None`` if it takes part in none.

    Args:
        store: the source, the target, or the store that is migrated.

    Raises:
        RootcellarError: it cannot be asked.
    """
    if isinstance(store, DualStore):
        return read_status(pair_of(store.source, store.target))
    values = store.ability(SharesValues)
    if values is None:
        return None
    status = _status([values])
    return None if status.state is None else status


def _status(stores: Sequence[SharesValues]) -> Status:
    first = stores[0]
    state, processes = state_in(first), processes_in(stores)
    return Status(
        state=state,
        at=first.server_time(),
        processes=processes,
        silent=[] if state is None else unconfirmed(state, processes),
        left_out=[] if state is None else left_out(state, processes),
        owner=owner_of(first),
        unmirrored=sum(len(values.shared(UNMIRRORED)) for values in stores),
        counters=summed(processes),
    )


def status_object(status: Status) -> dict[str, Any]:
    """Return a status as plain data, for JSON."""
    state = status.state
    silent = {each.key for each in status.silent}
    described = partial(_process_object, status, silent)
    return {
        "begun": state is not None,
        "at": status.at.isoformat(),
        "state": None if state is None else as_object(state),
        "operator": None if status.owner is None else {**asdict(status.owner), "since": status.owner.since.isoformat()},
        "processes": [described(each) for each in status.processes],
        "unconfirmed": [visible(each.name) for each in status.silent],
        "left_out": [visible(each.name) for each in status.left_out],
        "unmirrored": status.unmirrored,
        "counters": dict(status.counters),
        "problem": status.problem or None,
    }


def _process_object(status: Status, silent: set[str], process: Process) -> dict[str, Any]:
    is_silent = process.key in silent
    return {
        "name": visible(process.name),
        "host": visible(process.host),
        "pid": process.pid,
        "role": visible(process.role),
        "phase": process.phase,
        "phase_name": NAMES.get(process.phase) if process.phase is not None else None,  # type: ignore[call-overload]
        "confirmed": not is_silent and status.state is not None,
        "silent_seconds": round(status.silent_for(process).total_seconds(), 1) if is_silent else None,
        "heard_at": process.heard_at.isoformat(),
        "counters": dict(process.counters),
    }
