"""Which processes follow a migration, and which of them have confirmed its phase.

Each process stores a shared value with the phase that it follows, and deletes it when it ends. A process that was
killed cannot delete it. On the same host, others notice that and delete it; elsewhere, it stays silent in the next
phase. It is then named, and the operator decides.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from rootcellar.errors import MigrationRefused
from rootcellar.migration.pair import Pair
from rootcellar.migration.state import PROCESSES, State
from rootcellar.stores.dual.presence import Identity
from rootcellar.stores.shared_values import SharedValue, SharesValues


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process that follows the migration.

    Attributes:
        key: its name in the shared values: ``host/1234-5678``.
        host, pid: where it runs, and its number there.
        role: what it is, such as ``worker``; empty if it does not say so.
        phase: the number of the phase that it has confirmed.
        epoch: the epoch of this phase; ``None`` if it does not say so.
        heard_at: when it stored its value last, by the clock of the store.
        counters: what it has counted, by name, such as ``unmirrored``.
    """

    key: str
    host: str
    pid: int | None
    role: str = ""
    phase: int | None = None
    epoch: int | None = None
    heard_at: datetime
    counters: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The process, for people and for ``--without``: ``host/1234``."""
        return self.host if self.pid is None else f"{self.host}/{self.pid}"

    def has_confirmed(self, state: State) -> bool:
        """Return whether it follows the phase of a state."""
        if self.phase != state.phase:
            return False
        return self.epoch is None or self.epoch >= state.epoch


def processes_of(pair: Pair) -> list[Process]:
    """Return the processes that follow the migration, by their names.

    A process that cannot reach the target stores its value in the source, and deletes it there when it reaches the
    target again. So of two values, that of the source counts.
    """
    return processes_in([pair.target.values, pair.source.values])


def processes_in(stores: Iterable[SharesValues]) -> list[Process]:
    """Return the processes that follow a migration, as the shared values of some stores say; the last one counts."""
    found: dict[str, Process] = {}
    for values in stores:
        for value in values.shared(PROCESSES).values():
            process = _process(value)
            found[process.key] = process
    return sorted(found.values(), key=lambda process: (process.host, process.pid or 0, process.key))


def remove_dead(pair: Pair) -> None:
    """Remove the values of processes of this host that do not exist any more, such as those that were killed."""
    me = Identity()
    for side in (pair.target, pair.source):
        if dead := me.dead(side.values.shared(me.keys_of_host)):
            side.values.unshare(dead)


def remove_silent(values: SharesValues, seconds: float) -> None:
    """Remove the values of processes that have not renewed them for so long: after a migration, and before one.

    Args:
        values: the shared values of a store.
        seconds: a process that exists renews its value more often.
    """
    since = values.server_time() - timedelta(seconds=seconds)
    if silent := [key for key, value in values.shared(PROCESSES).items() if value.changed_at < since]:
        values.unshare(silent)


def unconfirmed(state: State, processes: Iterable[Process]) -> list[Process]:
    """Return the processes that have not confirmed the phase of a state, without those that need not confirm."""
    return [each for each in processes if not each.has_confirmed(state) and each.key not in state.without]


def left_out(state: State, processes: Iterable[Process]) -> list[Process]:
    """Return the processes that need not confirm, and have not confirmed."""
    return [each for each in processes if not each.has_confirmed(state) and each.key in state.without]


def named(names: Sequence[str], processes: Sequence[Process], where: str) -> list[Process]:
    """Return the processes that the operator names: ``host`` means all of a host, ``host/pid`` one.

    Raises:
        MigrationRefused: a name is that of no process.
    """
    found: list[Process] = []
    for name in names:
        meant = [each for each in processes if name in (each.host, each.name, each.key)]
        if not meant:
            known = ", ".join(dict.fromkeys(each.name for each in processes)) or "none"
            raise MigrationRefused(
                f"no process that follows the migration is named {name!r}",
                where=where,
                remedy=f"name one of these: {known}",
            )
        found += [each for each in meant if each not in found]
    return found


def summed(processes: Iterable[Process]) -> dict[str, int]:
    """Return the sums of what all processes have counted."""
    sums: dict[str, int] = {}
    for process in processes:
        for name, count in process.counters.items():
            sums[name] = sums.get(name, 0) + count
    return sums


def _process(value: SharedValue) -> Process:
    key = value.key.removeprefix(PROCESSES)
    host, _, rest = key.rpartition("/")
    pid = rest.partition("-")[0]
    about = _about(value.value)
    counters = about.get("counters")
    return Process(
        key=key,
        host=host or rest,
        pid=int(pid) if pid.isdecimal() else None,
        role=str(about.get("role") or ""),
        phase=_whole(about.get("phase")),
        epoch=_whole(about.get("epoch")),
        heard_at=value.changed_at,
        counters=_counts(counters if isinstance(counters, dict) else {}),
    )


def _about(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _counts(counters: Mapping[str, Any], prefix: str = "") -> dict[str, int]:
    """Return counters by name; those in a group have the name of the group before a slash."""
    found: dict[str, int] = {}
    for name, value in counters.items():
        if isinstance(value, dict):
            found |= _counts(value, f"{prefix}{name}/")
        elif (count := _whole(value)) is not None:
            found[f"{prefix}{name}"] = count
    return found
